"""Who else is there: heartbeats of workers and producers, and questions to the other workers.

Each worker says on ``<topic>.heartbeats`` every few seconds who it is, where its views are and which partitions it
holds: key ``<worker id>``, value JSON ``{"timestamp", "role": "worker", "id", "url", "partitions", "interval",
"state"}``. Producers of ours and of OpenMSIStream write theirs there too (key ``<program id>_heartbeat``). A thread
reads them all with a consumer that has no group, so that reading costs the worker's own group nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from openmsi_streams.web.security import GUARD_HEADER, Guard

log = logging.getLogger(__name__)

# Heartbeats come every 10 s; two may get lost.
LATE_SECONDS = 35.0
# After that a worker is taken for gone for good and no longer mentioned; long enough for a restart of its machine.
FORGET_SECONDS = 600.0
# A view waits no longer for another worker; a person notices a second and leaves after a few.
ASK_SECONDS = 1.5
# A worker that did not answer is left alone for so long, so that pages stay quick while it is down.
SKIP_SECONDS = 5.0
# A page of 1,000 rows with many ranges has about 5 MB.
ANSWER_BYTES = 32 << 20
# Producers remembered; their ids come from messages, so there is a bound.
PRODUCERS = 5000


class Beat(msgspec.Struct):
    """The last heartbeat of one program."""

    id: str
    role: str
    topic: str
    time: float
    """When it was sent, seconds since the epoch, by Kafka's timestamp."""
    url: str = ""
    partitions: dict[str, list[int]] = {}
    state: str = ""
    interval: float = 0.0
    values: dict[str, Any] = {}
    """Counters and whatever else the program says of itself."""

    def held(self) -> set[tuple[str, int]]:
        """Return the partitions that it said it holds."""
        return {(topic, number) for topic, numbers in self.partitions.items() for number in numbers}


def read_beat(topic: str, key: bytes | None, value: bytes | None, timestamp: float) -> Beat | None:
    """Return the heartbeat that a message holds; None if it is not one (e.g. encrypted)."""
    if not value:
        return None
    try:
        content = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(content, dict):
        return None
    name = (key or b"").decode("utf-8", "replace").removesuffix("_heartbeat")
    role = "worker" if content.get("role") == "worker" else "producer"
    identity = str(content.get("id") or name)[:200]
    if not identity:
        return None
    sent = timestamp or _time_of(content.get("timestamp"))
    values = {
        str(name)[:100]: value if not isinstance(value, str) else value[:500]
        for name, value in list(content.items())[:40]
        if name not in ("id", "url", "partitions", "role", "state") and isinstance(value, int | float | str)
    }
    url = content.get("url")
    return Beat(
        id=identity,
        role=role,
        topic=topic,
        time=sent,
        url=url if isinstance(url, str) and urlsplit(url).scheme in ("http", "https") else "",
        partitions=_partitions(topic, content.get("partitions")),
        state=str(content.get("state") or "")[:40],
        interval=float(content["interval"]) if isinstance(content.get("interval"), int | float) else 0.0,
        values=values,
    )


def _partitions(topic: str, value: object) -> dict[str, list[int]]:
    """A list is about the topic whose heartbeats these are, a mapping about all topics of the worker."""
    try:
        if isinstance(value, list):
            value = {topic: value}
        return msgspec.convert(value or {}, dict[str, list[int]])
    except msgspec.ValidationError:
        return {}


def _time_of(value: object) -> float:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            when = datetime.fromisoformat(value)
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    return 0.0


def beat_value(
    worker: str, url: str, partitions: dict[str, list[int]], interval: float, state: str = "running"
) -> bytes:
    """Return the value of this worker's heartbeat; its key is the worker's id."""
    return msgspec.json.encode(
        {
            "timestamp": datetime.now(UTC).isoformat(),
            "role": "worker",
            "id": worker,
            "url": url,
            "partitions": partitions,
            "interval": interval,
            "state": state,
        }
    )


class Answer(msgspec.Struct):
    """What another worker said."""

    worker: str
    status: int
    """HTTP status; 0: no answer."""
    body: bytes = b""
    content_type: str = ""
    problem: str = ""

    def json(self) -> dict[str, Any]:
        """Return the body as a dict; empty if it is not one."""
        try:
            found = msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return {}
        return found if isinstance(found, dict) else {}


class Peers:
    """The other workers and the producers, as their heartbeats say."""

    def __init__(self, worker: str, guard: Guard, clock: Callable[[], float] = time.time) -> None:
        self.worker = worker
        self._guard = guard
        self._clock = clock
        self._lock = threading.Lock()
        self._workers: dict[str, Beat] = {}
        self._producers: dict[tuple[str, str], Beat] = {}
        self._skip: dict[str, float] = {}
        self._session: aiohttp.ClientSession | None = None
        self.mine: Callable[[], dict[str, list[int]]] = dict
        """Gives this worker's own partitions."""
        self.heard: Callable[[str], None] = lambda role: None
        """Called with the role for each heartbeat, for the metrics."""

    def take(self, beat: Beat) -> None:
        """Note a heartbeat; called from the reader's thread."""
        self.heard(beat.role)
        with self._lock:
            if beat.role == "worker":
                known = self._workers.get(beat.id)
                # A worker writes to the heartbeats of every topic it reads; the newest counts, for its topic.
                if known is None or beat.time >= known.time:
                    if known is not None:
                        beat.partitions = known.partitions | beat.partitions
                    self._workers[beat.id] = beat
                    if known is None or known.url != beat.url:
                        self._skip.pop(beat.id, None)
            else:
                self._producers[beat.topic, beat.id] = beat
                if len(self._producers) > PRODUCERS:
                    self._producers.pop(min(self._producers, key=lambda key: self._producers[key].time))

    def producers(self) -> list[Beat]:
        """Return the last heartbeat of every producer, the newest first."""
        with self._lock:
            return sorted(self._producers.values(), key=lambda beat: -beat.time)

    def workers(self) -> list[Beat]:
        """Return the other workers that were heard of lately and did not say goodbye."""
        now = self._clock()
        with self._lock:
            for identity in [i for i, beat in self._workers.items() if now - beat.time > FORGET_SECONDS]:
                del self._workers[identity]
            return sorted(
                (beat for beat in self._workers.values() if beat.id != self.worker and beat.state != "leaving"),
                key=lambda beat: beat.id,
            )

    def notes(self, answers: list[Answer]) -> list[str]:
        """Return a sentence for each worker whose rows are not in the answers and that nobody has taken over."""
        silent = {answer.worker for answer in answers if answer.status != 200}
        if not silent:
            return []
        # One that answers, or is this one, holds these now.
        held = {(topic, number) for topic, numbers in self.mine().items() for number in numbers}
        for beat in self.workers():
            if beat.id not in silent:
                held |= beat.held()
        gone = {beat.id for beat in self.workers() if beat.id in silent and beat.held() and beat.held() <= held}
        return [
            f"Worker {answer.worker} does not answer ({answer.problem}); its files are missing here until it is back "
            "or its partitions have moved."
            for answer in answers
            if answer.worker in silent - gone
        ]

    async def ask(self, path_and_query: str, method: str = "GET") -> list[Answer]:
        """Ask all other workers at once; one that is down gives an answer with its problem."""
        workers = self.workers()
        if not workers:
            return []
        return list(await asyncio.gather(*(self._ask(beat, path_and_query, method) for beat in workers)))

    async def _ask(self, beat: Beat, path_and_query: str, method: str) -> Answer:
        now = self._clock()
        age = now - beat.time
        if age > LATE_SECONDS:
            return Answer(beat.id, 0, problem=f"no heartbeat for {age:.0f} s")
        if not beat.url:
            return Answer(beat.id, 0, problem="its heartbeat names no address; set web.public_url there")
        if self._skip.get(beat.id, 0.0) > now:
            return Answer(beat.id, 0, problem="no answer a moment ago")
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=ASK_SECONDS), cookie_jar=aiohttp.DummyCookieJar()
            )
        # Sent as written: the signature covers the exact path, which the library must not quote again.
        headers = {"Accept": "application/json", GUARD_HEADER: "1"} | self._guard.peer_header(method, path_and_query)
        try:
            async with self._session.request(
                method, URL(beat.url.rstrip("/") + path_and_query, encoded=True), headers=headers, allow_redirects=False
            ) as response:
                body = await response.content.read(ANSWER_BYTES)
                while len(body) < ANSWER_BYTES and not response.content.at_eof():
                    body += await response.content.read(ANSWER_BYTES - len(body))
                self._skip.pop(beat.id, None)
                problem = "" if response.status == 200 else f"HTTP status {response.status}"
                return Answer(beat.id, response.status, body, response.content_type, problem)
        except TimeoutError:
            why = f"no answer within {ASK_SECONDS:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = type(error).__name__
        self._skip[beat.id] = self._clock() + SKIP_SECONDS
        return Answer(beat.id, 0, problem=why)

    async def close(self) -> None:
        """Close the connections to the other workers."""
        if self._session is not None:
            await self._session.close()
