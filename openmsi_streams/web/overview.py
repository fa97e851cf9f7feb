"""The overview: what is on its way, what waits, what has just arrived, and who takes part. Cheap at any table size."""

from __future__ import annotations

from typing import Any

from openmsi_streams import __version__
from openmsi_streams.tables.rows import OPEN, Row, State
from openmsi_streams.web import health, names, shape
from openmsi_streams.web.index import Filter
from openmsi_streams.web.site import Site

IN_FLIGHT = 50
OTHERS = 10
# One answer serves all viewers for so long.
KEEP_SECONDS = 0.5
# Without an interval in its heartbeat a program is OpenMSIStream's, whose default is 900 s; three may be lost.
_LATE_DEFAULT = 2700.0
_MOVING = OPEN - {State.STALLED}


def brief(site: Site, file_id: str, row: Row, now: float) -> dict[str, Any]:
    """Return what a line of the overview shows of a row: its item without long parts, with bar, rate and time left."""
    full = shape.item(file_id, row, site.worker)
    rate = site.rates.file(file_id, now, full["received"], row.since) if row.state in _MOVING else None
    left = None
    if rate and full["bytes"] is not None and row.state == State.RECEIVING:
        left = (full["bytes"] - full["received"]) / rate
    return {
        "file_id": file_id,
        "topic": row.topic,
        "path": row.path,
        "shown": names.short(row.path),
        "bytes": full["bytes"],
        "received": full["received"],
        "state": full["state"],
        "reason": row.reason,
        "message": row.message,
        "since": row.since,
        "updated": row.updated,
        "fraction": shape.fraction(full),
        "bar": shape.bar(full),
        "gaps": len(shape.gaps(full)),
        "rate": rate,
        "remaining": left,
        "stores": [delivery.store for delivery in row.deliveries],
        "worker": site.worker,
    }


def _newest(site: Site, states: frozenset[State], limit: int, now: float) -> list[dict[str, Any]]:
    found = []
    for _, file_id in site.index.newest(Filter(states=states)):
        row = site.row(file_id)
        if row is not None and row.state in states:
            found.append(brief(site, file_id, row, now))
        if len(found) == limit:
            break
    return found


def local(site: Site) -> dict[str, Any]:
    """Return this worker's part of the overview."""
    now = site.clock()
    known = site.kept.get("overview")
    if known is not None and 0 <= now - known[0] < KEEP_SECONDS:
        return dict(known[1])
    flight = _newest(site, frozenset(_MOVING), IN_FLIGHT, now)
    states: dict[str, dict[str, int]] = {str(state): {"files": 0, "bytes": 0} for state in State}
    topics: dict[str, dict[str, Any]] = {
        topic: {"topic": topic, "states": {}, "rate": 0.0, "last": None} for topic in site.source.topics()
    }

    def add(topic: str, state: State, files: int, size: int) -> None:
        entry = topics.setdefault(topic, {"topic": topic, "states": {}, "rate": 0.0, "last": None})
        for sums in (states[state], entry["states"].setdefault(str(state), {"files": 0, "bytes": 0})):
            sums["files"] += files
            sums["bytes"] += size

    for (topic, state), sums in site.index.sums().items():
        add(topic, state, sums.files, sums.bytes)
    # Seen, but not yet written to the table; there are few of these at any time.
    fresh = [file_id for file_id in site.source.live_ids() if file_id not in site.index]
    for file_id in fresh:
        row = site.row(file_id)
        if row is not None:
            add(row.topic, row.state, 1, max(0, row.size))
            if len(flight) < IN_FLIGHT and row.state in _MOVING:
                flight.append(brief(site, file_id, row, now))
    flight.sort(key=lambda item: (-item["updated"], item["file_id"]))
    for topic, entry in topics.items():
        entry["rate"] = site.rates.topic(topic)
        last = site.index.last(topic)
        known_last = site.index.get(last[1]) if last else None
        if last and known_last:
            entry["last"] = {
                "file_id": last[1],
                "path": known_last.path,
                "shown": names.short(known_last.path),
                "updated": last[0],
                "state": str(known_last.state),
            }
    is_ready, reasons = health.ready(site.source.health())
    answer = {
        "ok": True,
        "time": now,
        "worker": site.worker,
        "version": __version__,
        "changes": site.source.changes(),
        "states": states,
        "in_flight": flight,
        "stalled": _newest(site, frozenset({State.STALLED}), OTHERS, now),
        "quarantined": _newest(site, frozenset({State.QUARANTINED}), OTHERS, now),
        "delivered": _newest(site, frozenset({State.DELIVERED}), OTHERS, now),
        "topics": [topics[topic] for topic in sorted(topics)],
        "workers": [
            {
                "id": site.worker,
                "url": "",
                "partitions": site.source.partitions(),
                "age": 0.0,
                "ready": is_ready,
                "reasons": reasons,
            }
        ],
        "producers": producers(site, now),
        "notes": site.note_of_recovery(),
    }
    site.kept["overview"] = (now, answer)
    return dict(answer)


def producers(site: Site, now: float) -> list[dict[str, Any]]:
    """Return what is known of each producer: id, topic, age of its heartbeat, its counters."""
    found = []
    for beat in site.peers.producers()[:200]:
        age = max(0.0, now - beat.time)
        interval = beat.interval or float(beat.values.get("heartbeat_seconds") or 0.0)
        found.append(
            {
                "id": beat.id,
                "shown": names.short(beat.id),
                "topic": beat.topic,
                "time": beat.time,
                "age": age,
                "late": age > (3 * interval if interval else _LATE_DEFAULT),
                "values": beat.values,
            }
        )
    return found


async def whole(site: Site, only_local: bool = False) -> dict[str, Any]:
    """Return the answer of `/api/v1/overview`: all workers', with a note for each that does not answer."""
    mine = local(site)
    if only_local or not site.peers.workers():
        return mine
    now = site.clock()
    known = site.kept.get("whole")
    if known is not None and 0 <= now - known[0] < 2 * KEEP_SECONDS:
        return dict(known[1])
    answers = await site.peers.ask("/api/v1/overview?local=1")
    merged = dict(mine)
    merged["states"] = {state: dict(sums) for state, sums in mine["states"].items()}
    merged["notes"] = mine["notes"] + site.peers.notes(answers)
    topics = {entry["topic"]: entry | {"states": _copy(entry["states"])} for entry in mine["topics"]}
    beats = {beat.id: beat for beat in site.peers.workers()}
    workers = list(mine["workers"])
    for answer in answers:
        beat = beats.get(answer.worker)
        body = answer.json() if answer.status == 200 else {}
        theirs = (body.get("workers") or [{}])[0]
        workers.append(
            {
                "id": answer.worker,
                "url": beat.url if beat else "",
                "partitions": theirs.get("partitions", beat.partitions if beat else {}),
                "age": max(0.0, now - beat.time) if beat else None,
                "ready": bool(theirs.get("ready")),
                "reasons": theirs.get("reasons") or ([answer.problem] if answer.problem else []),
            }
        )
        if not body:
            continue
        merged["notes"] += [note for note in body["notes"] if note not in merged["notes"]]
        _add(merged["states"], body["states"])
        for name, limit in (
            ("in_flight", IN_FLIGHT),
            ("stalled", OTHERS),
            ("quarantined", OTHERS),
            ("delivered", OTHERS),
        ):
            ids = {item["file_id"] for item in merged[name]}
            both = merged[name] + [item for item in body[name] if item["file_id"] not in ids]
            merged[name] = sorted(both, key=lambda item: (-item["updated"], item["file_id"]))[:limit]
        for entry in body["topics"]:
            ours = topics.setdefault(entry["topic"], entry | {"states": {}, "rate": 0.0, "last": None})
            _add(ours["states"], entry["states"])
            ours["rate"] += entry["rate"]
            if entry["last"] and (not ours["last"] or entry["last"]["updated"] > ours["last"]["updated"]):
                ours["last"] = entry["last"]
    merged["topics"] = [topics[topic] for topic in sorted(topics)]
    merged["workers"] = workers
    site.kept["whole"] = (now, merged)
    return dict(merged)


def _copy(sums: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    return {name: dict(value) for name, value in sums.items()}


def _add(to: dict[str, dict[str, int]], more: dict[str, dict[str, int]]) -> None:
    for state, sums in more.items():
        known = to.setdefault(state, {"files": 0, "bytes": 0})
        known["files"] += sums["files"]
        known["bytes"] += sums["bytes"]
