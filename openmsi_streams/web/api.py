"""The JSON answers: the same names and numbers as the pages."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from openmsi_streams.tables.rows import State
from openmsi_streams.web import collect, health, lists, overview, records, shape, shots
from openmsi_streams.web.problem import Problem, json_response
from openmsi_streams.web.site import Site, site_of


def _is_local(request: web.Request) -> bool:
    return request.query.get("local", "") in ("1", "true", "yes")


async def get_overview(request: web.Request) -> web.Response:
    """Overview: what is on its way, what waits, what has arrived, workers and producers."""
    return json_response(await overview.whole(site_of(request), _is_local(request)))


async def get_files(request: web.Request) -> web.Response:
    """File versions of all workers, the newest first."""
    return json_response(await lists.files(site_of(request), lists.parse(request.query)))


async def get_file(request: web.Request) -> web.Response:
    """One file version and the versions of its path."""
    return json_response(await lists.one(site_of(request), request.match_info["file_id"], _is_local(request)))


async def get_lookup(request: web.Request) -> web.Response:
    """The versions of one path, the newest first, by topic and exact path."""
    site = site_of(request)
    path = request.query.get("path", "")
    if not path:
        raise Problem(400, "The parameter 'path' is missing.", "Give the file's path below the watched folder.")
    topic = request.query.get("topic", "")
    items = await lookup(site, topic, path)
    if not items:
        raise Problem(
            404, "No file version has this path.", "Paths are relative to the watched folder; see /files/ for all."
        )
    return json_response({"ok": True, "items": items})


async def lookup(site: Site, topic: str, path: str) -> list[dict[str, Any]]:
    """Return all versions of one path on one topic, or on all topics if ``topic`` is empty."""
    topics = [topic] if topic else sorted({*site.source.topics(), *site.index.topics()})
    found: list[dict[str, Any]] = []
    for name in topics:
        query = lists.parse({"topic": name, "prefix": path, "limit": str(lists.MOST)})
        found += [item for item in (await lists.files(site, query))["items"] if item["path"] == path]
    return sorted(found, key=lambda item: (-item["updated"], item["file_id"]))


async def post_replay(request: web.Request) -> web.Response:
    """Put a quarantined file version back through."""
    file_id = lists.check_id(request.match_info["file_id"])
    await replay(site_of(request), file_id, _is_local(request))
    return json_response({"ok": True, "file_id": file_id, "replayed": True}, 202)


async def replay(site: Site, file_id: str, local: bool = False) -> None:
    """Replay here or on the worker that has the row. Raises Problem 404, 409 or 503."""
    row = site.source.row(file_id)
    if row is not None:
        if row.state != State.QUARANTINED:
            raise Problem(
                409, f"This file version is {row.state}, not quarantined.", "Only what is quarantined can be replayed."
            )
        if not await site.source.replay(file_id):
            raise Problem(
                409,
                "There is nothing left to replay: its chunks are no longer in the log.",
                "Send the file again from the instrument.",
            )
        site.kept.clear()
        return
    if local:
        raise lists.unknown_file(site.note_of_recovery())
    answers = await site.peers.ask(f"/api/v1/files/{file_id}/replay?local=1", "POST")
    if any(answer.status == 202 for answer in answers):
        site.kept.clear()
        return
    for answer in answers:
        if answer.status == 409:
            body = answer.json()
            raise Problem(409, str(body.get("error")), str(body.get("hint")))
    down = [answer for answer in answers if answer.status not in (200, 404)]
    raise lists.unknown_file(site.note_of_recovery() + site.peers.notes(down))


async def get_sheet(request: web.Request) -> web.Response:
    """The PDV sheet of a file version as PNG."""
    site, file_id = site_of(request), lists.check_id(request.match_info["file_id"])
    image = await asyncio.to_thread(site.results.sheet, file_id)
    if image is None and not _is_local(request) and _is_elsewhere(site, file_id):
        for answer in await site.peers.ask(f"/api/v1/files/{file_id}/sheet.png?local=1"):
            if answer.status == 200:
                image = answer.body
    if image is None:
        raise Problem(404, "This file version has no sheet.", "Only PDV records have one, after their analysis.")
    if not image.startswith(b"\x89PNG"):
        raise Problem(502, "The stored sheet is not a PNG image.", "Analyse the shot again.")
    return web.Response(body=image, content_type="image/png", headers={"Cache-Control": "private, max-age=60"})


def _is_elsewhere(site: Site, file_id: str) -> bool:
    """Say whether another worker may have what this one lacks: results live where their row lives."""
    return site.row(file_id) is None


async def result_of(site: Site, file_id: str, local: bool = False) -> dict[str, Any] | None:
    """Return the PDV result document of a file version, from here or from another worker."""
    found = await asyncio.to_thread(site.results.results, file_id)
    if found is None and not local and _is_elsewhere(site, file_id):
        for answer in await site.peers.ask(f"/api/v1/files/{file_id}/result?local=1"):
            if answer.status == 200:
                found = answer.json().get("result")
    return found


async def get_result(request: web.Request) -> web.Response:
    """The PDV result document of a file version."""
    file_id = lists.check_id(request.match_info["file_id"])
    found = await result_of(site_of(request), file_id, _is_local(request))
    if found is None:
        raise Problem(404, "This file version has no PDV result.", "Only PDV records have one, after their analysis.")
    return json_response({"ok": True, "file_id": file_id, "result": found})


async def record_of(site: Site, file_id: str, local: bool = False) -> bytes | None:
    """Return the GEMD document of a file version, from here or from another worker."""
    found = await asyncio.to_thread(site.results.record, file_id)
    if found is None and not local and _is_elsewhere(site, file_id):
        for answer in await site.peers.ask(f"/api/v1/files/{file_id}/record?local=1"):
            if answer.status == 200:
                found = answer.body
    return found


async def get_record(request: web.Request) -> web.Response:
    """The GEMD record of a file version, the same bytes as on the topic and beside the object."""
    file_id = lists.check_id(request.match_info["file_id"])
    found = await record_of(site_of(request), file_id, _is_local(request))
    if found is None:
        raise Problem(404, "This file version has no GEMD record.", "Records are written after delivery.")
    return web.Response(body=found, content_type="application/json")


async def get_pdv(request: web.Request) -> web.Response:
    """PDV results of all workers, the newest first."""
    return json_response(await shots.shots(site_of(request), shots.ShotQuery(request.query)))


async def get_pdv_csv(request: web.Request) -> web.Response:
    """PDV results as CSV, with the same filters."""
    query = shots.ShotQuery({"limit": str(shots.MOST), **request.query})
    found = await shots.shots(site_of(request), query)
    return web.Response(
        text=shots.to_csv(found["items"]),
        content_type="text/csv",
        headers={"Content-Disposition": 'attachment; filename="pdv.csv"'},
    )


async def get_gemd(request: web.Request) -> web.Response:
    """GEMD records of all workers, the newest first, by sample if asked."""
    return json_response(await records.listing(site_of(request), request.query.get("sample", ""), _is_local(request)))


async def get_quarantine(request: web.Request) -> web.Response:
    """The newest quarantined messages that belong to no file; quarantined files are in the list of files."""
    return json_response({"ok": True, "items": site_of(request).notices.newest()})


async def get_processors(request: web.Request) -> web.Response:
    """The lab's own processors and what they did on this worker."""
    return json_response({"ok": True, "items": processors(site_of(request))})


def processors(site: Site) -> list[dict[str, Any]]:
    """Return each processor with its outcomes since this worker started; what did not happen yet is zero."""
    return [
        {
            "name": str(item["name"]),
            "topics": [str(topic) for topic in item.get("topics") or ()],
            "match": [str(pattern) for pattern in item.get("match") or ()],
            **{name: int(item.get(name) or 0) for name in ("ok", "retried", "failed")},
            "last_time": item.get("last_time"),
            "last_seconds": item.get("last_seconds"),
            "last_error": str(item.get("last_error") or ""),
        }
        for item in site.processors()
    ]


async def get_health(request: web.Request) -> web.Response:
    """Readiness with its reasons, stores, partitions and ages of commits."""
    site = site_of(request)
    status = site.source.health()
    is_ready, reasons = health.ready(status)
    return json_response(
        {"ok": True, "ready": is_ready, "reasons": reasons, "partitions": site.source.partitions(), "health": status}
    )


async def get_live(request: web.Request) -> web.Response:
    """Answers as long as the event loop runs."""
    return json_response({"ok": True, "status": "live"})


async def get_ready(request: web.Request) -> web.Response:
    """200 when the worker can work, else 503; the reasons only for those who may see them."""
    site = site_of(request)
    is_ready, reasons = health.ready(site.source.health())
    body: dict[str, Any] = {"ok": is_ready, "status": 200 if is_ready else 503}
    try:
        site.guard.check(request)
    except Problem:
        # A probe without the token learns one word, and nothing about stores, paths or partitions.
        reasons = [] if is_ready else ["Log in to see why."]
    if not is_ready:
        body |= {"error": "The worker is not ready.", "hint": " ".join(reasons), "reasons": reasons}
    return json_response(body, 200 if is_ready else 503)


async def get_metrics(request: web.Request) -> web.Response:
    """Metrics in Prometheus's text format."""
    body = await collect.exposition(request.app[REGISTRY])
    return web.Response(body=body, headers={"Content-Type": collect.CONTENT_TYPE})


REGISTRY: web.AppKey[Any] = web.AppKey("openmsi_streams_registry", object)


def words() -> dict[str, str]:
    """Return each state with its meaning."""
    return {str(state): text for state, text in shape.STATE_WORDS.items()}
