"""Lists of file versions: a page of this worker's, merged with the same page of the others."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from openmsi_streams.tables.rows import OPEN, State
from openmsi_streams.web import shape
from openmsi_streams.web.index import Filter, Key
from openmsi_streams.web.problem import Problem
from openmsi_streams.web.site import Site

LIMIT = 100
MOST = 1000
# The event loop gets its turn after so many seconds of work: a page of 100 rows takes less, one of 1,000 more.
_TURN = 0.005
FILE_ID = re.compile(r"^[0-9a-f]{32}$")
KNOWN = frozenset({"topic", "state", "prefix", "since", "until", "limit", "cursor", "local"})


class Query(msgspec.Struct, frozen=True):
    """A list that was asked for."""

    which: Filter
    limit: int = LIMIT
    before: Key | None = None
    local: bool = False
    """This worker's rows only."""

    def parameters(self) -> dict[str, str]:
        """Return the query string's parameters without cursor, for links to the same list."""
        found = {
            "topic": self.which.topic,
            "state": ",".join(sorted(self.which.states)),
            "prefix": self.which.prefix,
            "since": f"{self.which.since:.3f}" if self.which.since else "",
            "until": f"{self.which.until:.3f}" if self.which.until else "",
            "limit": str(self.limit) if self.limit != LIMIT else "",
        }
        return {name: value for name, value in found.items() if value}


def encode_cursor(key: Key | None) -> str | None:
    """Return where to go on as a text that fits a URL."""
    if key is None:
        return None
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).rstrip(b"=").decode()


def decode_cursor(text: str) -> Key:
    """Return the key of a cursor. Raises Problem 400."""
    try:
        updated, file_id = msgspec.json.decode(
            base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=tuple[float, str]
        )
        return updated, file_id
    except (msgspec.DecodeError, binascii.Error, ValueError):
        raise Problem(400, "The cursor is not one of ours.", "Leave it out to start with the newest.") from None


def when(text: str, name: str) -> float:
    """Return a time given as seconds since the epoch or as ISO 8601 (UTC unless it says). Raises Problem 400."""
    if not text:
        return 0.0
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise Problem(
            400, f"{name} is not a time.", "Give seconds since the epoch or ISO 8601, e.g. 2026-11-22T10:15:00Z."
        ) from None


def parse(query: Mapping[str, str]) -> Query:
    """Return the list that a query string asks for.

    Raises:
        Problem: 400 for a parameter that is not known or has no sense.
    """
    unknown = sorted(set(query) - KNOWN)
    if unknown:
        raise Problem(400, f"The parameter {unknown[0][:60]!r} is not known.", f"Known: {', '.join(sorted(KNOWN))}.")
    states: set[State] = set()
    for word in filter(None, query.get("state", "").split(",")):
        if word == "open":
            states |= OPEN
        elif word in State._value2member_map_:
            states.add(State(word))
        else:
            raise Problem(
                400, f"The state {word[:60]!r} does not exist.", f"States: {', '.join(State)}; open: not settled."
            )
    try:
        limit = int(query.get("limit") or LIMIT)
    except ValueError:
        limit = 0
    if not 1 <= limit <= MOST:
        raise Problem(400, "limit is not a number of rows.", f"Give 1 to {MOST}.")
    cursor = query.get("cursor", "")
    return Query(
        which=Filter(
            topic=query.get("topic", ""),
            states=frozenset(states),
            prefix=query.get("prefix", ""),
            since=when(query.get("since", ""), "since"),
            until=when(query.get("until", ""), "until"),
        ),
        limit=limit,
        before=decode_cursor(cursor) if cursor else None,
        local=query.get("local", "") in ("1", "true", "yes"),
    )


async def local_page(site: Site, query: Query) -> tuple[list[dict[str, Any]], Key | None]:
    """Return this worker's rows of the list and the key to go on from."""
    which, before = query.which, query.before
    found: list[dict[str, Any]] = []
    if before is None:
        # Seen, but not yet written to the table.
        for file_id in site.source.live_ids():
            if file_id not in site.index:
                row = site.row(file_id)
                if row is not None and which.takes(row.topic, row.path, row.state, row.updated):
                    found.append(shape.item(file_id, row, site.worker))
        found.sort(key=_order, reverse=True)
        if len(found) > query.limit:
            del found[query.limit :]
    turn = time.perf_counter()
    while len(found) < query.limit:
        keys, after = site.index.page(which, query.limit - len(found), before)
        for _, file_id in keys:
            row = site.row(file_id)
            # What is live may have gone on since the index was told.
            if row is not None and which.takes(row.topic, row.path, row.state, row.updated):
                found.append(shape.item(file_id, row, site.worker))
            if time.perf_counter() - turn > _TURN:
                await asyncio.sleep(0)
                turn = time.perf_counter()
        before = after
        if after is None:
            return found, None
        if time.perf_counter() - turn > _TURN:
            await asyncio.sleep(0)
            turn = time.perf_counter()
    return found, before


def _order(item: dict[str, Any]) -> tuple[float, str]:
    return item["updated"], item["file_id"]


async def files(site: Site, query: Query) -> dict[str, Any]:
    """Return the answer of `/api/v1/files`: ``items`` of all workers, the newest first, ``next`` and ``notes``."""
    if query.local or not site.peers.workers():
        items, after = await local_page(site, query)
        return {"ok": True, "items": items, "next": encode_cursor(after), "notes": site.note_of_recovery()}
    parameters = query.parameters() | {"local": "1"}
    if query.before is not None:
        parameters["cursor"] = encode_cursor(query.before) or ""
    (items, after), answers = await asyncio.gather(
        local_page(site, query), site.peers.ask("/api/v1/files?" + urlencode(parameters))
    )
    more = after is not None
    merged = {item["file_id"]: item for item in items}
    notes = site.note_of_recovery() + site.peers.notes(answers)
    for answer in answers:
        body = answer.json() if answer.status == 200 else {}
        more = more or bool(body.get("next"))
        notes += [note for note in body.get("notes") or () if note not in notes]
        for item in body.get("items") or ():
            known = merged.get(item["file_id"])
            # While a partition moves, two workers have the row; the one that saw it last is right.
            if known is None or _order(item) > _order(known):
                merged[item["file_id"]] = item
    ordered = sorted(merged.values(), key=_order, reverse=True)
    page = ordered[: query.limit]
    key = _order(page[-1]) if page and (more or len(ordered) > query.limit) else None
    return {"ok": True, "items": page, "next": encode_cursor(key), "notes": notes}


def check_id(file_id: str) -> str:
    """Return the id. Raises Problem 404 for one that cannot be."""
    if not FILE_ID.match(file_id):
        raise unknown_file()
    return file_id


def unknown_file(notes: list[str] | None = None) -> Problem:
    """Return the problem for a file version that no worker knows; 503 while some cannot answer."""
    if notes:
        return Problem(503, "No worker that answers knows this file version.", " ".join(notes), {"Retry-After": "5"})
    return Problem(
        404,
        "No file version has this id.",
        "Look for its path in /files/; rows of delivered files are dropped after worker.keep_rows_for.",
    )


async def one(site: Site, file_id: str, local: bool = False) -> dict[str, Any]:
    """Return one file version's item with its ``versions``, from this worker or the one that has it.

    Raises:
        Problem: 404 if nobody knows it, 503 if somebody who might does not answer.
    """
    check_id(file_id)
    row = site.row(file_id)
    if row is not None:
        item = shape.item(file_id, row, site.worker)
        return {"ok": True, "item": item, "versions": versions(site, row.topic, row.path), "notes": []}
    if local:
        raise unknown_file(site.note_of_recovery())
    answers = await site.peers.ask(f"/api/v1/files/{file_id}?local=1")
    for answer in answers:
        if answer.status == 200 and answer.json().get("item"):
            return answer.json()
    down = [answer for answer in answers if answer.status not in (200, 404)]
    raise unknown_file(site.note_of_recovery() + site.peers.notes(down))


def versions(site: Site, topic: str, path: str) -> list[dict[str, Any]]:
    """Return the versions of a path that this worker knows, the newest first. All of a path have one home."""
    found = []
    for file_id in site.index.versions(topic, path):
        row = site.row(file_id)
        if row is not None:
            found.append(
                {
                    "file_id": file_id,
                    "state": str(row.state),
                    "bytes": row.size if row.size >= 0 else None,
                    "sha512": row.sha512.hex(),
                    "updated": row.updated,
                    "mtime": row.mtime,
                }
            )
    return found
