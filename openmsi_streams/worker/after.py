"""What follows a delivery: GEMD records at once, PDV analyses and a lab's processors behind their own topic."""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from openmsi_streams.assembly.message import Message
from openmsi_streams.chunks.messages import FileVersion
from openmsi_streams.chunks.reasons import Reason
from openmsi_streams.chunks.topics import beside
from openmsi_streams.config.settings import Settings
from openmsi_streams.errors import ConfigurationError, CryptoError, StoreError
from openmsi_streams.gemd.facts import StoreLink
from openmsi_streams.pdv.settings import check_rules, choose, read_sidecar
from openmsi_streams.processors.api import DeliveredFile, Processor, message
from openmsi_streams.processors.decide import decide
from openmsi_streams.processors.registry import load_processors
from openmsi_streams.processors.runner import Outcome, Runner, RunnerClosed
from openmsi_streams.storage.base import Store, StoreUnavailable
from openmsi_streams.tables.files import Cipher
from openmsi_streams.tables.rows import Row
from openmsi_streams.worker import metrics
from openmsi_streams.worker.deliver import Emitter, Record
from openmsi_streams.worker.engine import CONTROL_HEADER, Engine
from openmsi_streams.worker.ports import Publisher, Rows
from openmsi_streams.worker.records import Recorder, local_path, verified

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
# Kafka counts headers into the message's size; the end of a traceback says what went wrong.
MAX_TEXT = 4000

RECORD_PREFIX = b"record:"
TODO_PREFIX = b"todo:"
# A file version that waits in the table is taken up when no message has come for this long: Faust may acknowledge an
# event of `<topic>.delivered` during a rebalance without ever handing it over.
IDLE_SECONDS = 10.0
LOOK_SECONDS = 2.0
# What `[pdv]` may say of every shot; what is not said is flagged in the result.
SAID = ("wavelength_nm", "angle_deg", "material", "standoff_mm")
# Names of scope records; what else ends like this is told apart by its content.
SCOPE_SUFFIXES = (".trc", ".txt", ".csv")


class Follower:
    """Makes records and runs analyses of delivered files."""

    def __init__(self, engine: Engine, stores: list[Store], publisher: Publisher) -> None:
        """Take the engine, the stores that derived files go to, and the producer.

        Raises:
            RecordError, ConfigurationError: if the mapping or a pattern is wrong; before anything starts.
        """
        self.engine = engine
        self.settings: Settings = engine.settings
        self.stores = stores
        self.publisher = publisher
        self.ciphers: Mapping[str, Cipher | None] = {}
        """Topic -> what opens its `<topic>.delivered`, where it is sealed; set by the app."""
        self.tables: dict[str, Rows] = {}
        """Topic -> table of PDV results and summaries of records; set by the app."""
        self.recorder = Recorder(engine, stores, self.settings)
        self.recorder.analysis_of = self.results
        pdv = self.settings.pdv
        check_rules(pdv.rules)
        self._match = re.compile(pdv.match) if pdv.match else None
        self.todo: dict[tuple[str, int], dict[str, bytes]] = {}
        """(topic, partition) -> file id -> version, of what is delivered and not followed up yet."""
        self._turn = asyncio.Lock()
        self._heard = 0.0
        self.processors = load_processors(self.settings)
        self.outcomes: dict[str, dict[str, Any]] = {}
        """Processor name -> its last outcomes, for the views."""
        work = Path(self.settings.worker.data) / "work"
        self._analyses = Runner(pdv.processes, work=work, warm=["openmsi_streams.pdv.run"] if pdv.enabled else [])
        self._runner = Runner(self.settings.processors.processes, work=work)

    # -- records, before the receipt ---------------------------------------------------------------------------------

    def emitter(self) -> Emitter | None:
        """Return what makes the records of a delivery; None when records are off."""
        return self.recorder.emit if self.recorder.mapping is not None else None

    def announce(self, row: Row) -> list[Awaitable[Any]]:
        """Tell every partition that a sidecar has come: the files it describes may be anywhere."""
        if not self.recorder.describes_others(row.topic, row.path):
            return []
        return [
            self.publisher.send(
                beside(row.topic, "home"), row.path.encode(), b"", partition=p, headers={CONTROL_HEADER: b"sidecar"}
            )
            for p in range(self.engine.partitions[row.topic])
        ]

    async def sidecar(self, topic: str, partition: int, path: str) -> None:
        """Make the records again that a sidecar describes."""
        loop = asyncio.get_running_loop()
        records = await loop.run_in_executor(None, self.recorder.of_sidecar, topic, partition, path)
        await asyncio.gather(*(self.publisher.send(name, key, value) for name, key, value in records))

    # -- analyses, behind `<topic>.delivered` ------------------------------------------------------------------------

    def wants(self, topic: str, path: str) -> bool:
        """Say whether something follows a file of this path."""
        return self.wants_pdv(topic, path) or any(one.wants(topic, path) for one in self.processors)

    def wants_pdv(self, topic: str, path: str) -> bool:
        """Say whether a file of this path may be analysed; without a pattern its first bytes decide then."""
        pdv = self.settings.pdv
        if not pdv.enabled or (pdv.topics and topic not in pdv.topics):
            return False
        if self._match:
            return bool(self._match.search(path))
        return path.lower().endswith(SCOPE_SUFFIXES)

    def promise(self, topic: str, partition: int, file_id: str, version: bytes) -> None:
        """Note that a delivered file version is to be followed up, before its receipt goes out."""
        table = self.tables.get(topic)
        if table is not None and (topic, partition) in self.engine.lanes:
            table.put(partition, TODO_PREFIX + file_id.encode("ascii"), version)
            self.todo.setdefault((topic, partition), {})[file_id] = version

    def _kept(self, topic: str, partition: int, file_id: str) -> None:
        known = self.todo.get((topic, partition), {})
        if known.pop(file_id, None) is not None and (topic, partition) in self.engine.lanes:
            self.tables[topic].delete(partition, TODO_PREFIX + file_id.encode("ascii"))

    def adopt(self) -> None:
        """Learn what the partitions of this worker have left to do, after a start or a rebalance."""
        self.todo = {}
        for topic, partition in self.engine.lanes:
            table = self.tables.get(topic)
            if table is not None:
                self.todo[(topic, partition)] = {
                    key[len(TODO_PREFIX) :].decode("ascii"): value for key, value in table.items(partition, TODO_PREFIX)
                }
        self._heard = self.engine.clock()

    async def run(self) -> None:
        """Take up what waits and of which no message came, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.catch_up()

    async def catch_up(self) -> None:
        """Take up once what has waited long enough."""
        if self._turn.locked() or self.engine.clock() - self._heard < IDLE_SECONDS:
            return
        for (topic, partition), waiting in list(self.todo.items()):
            for value in list(waiting.values()):
                if (topic, partition) not in self.engine.lanes:
                    break
                async with self._turn:
                    await self._follow(topic, partition, msgspec.json.decode(value, type=FileVersion))

    async def handle(self, topic: str, found: Message) -> None:
        """Do what follows one delivered file version; repeats give the same results under the same names."""
        async with self._turn:
            self._heard = self.engine.clock()
            await self._handle(topic, found)
            self._heard = self.engine.clock()

    async def _handle(self, topic: str, found: Message) -> None:
        try:
            value = found.value or b""
            cipher = self.ciphers.get(topic)
            if cipher is not None:
                value = cipher.open(value)
            version = msgspec.json.decode(value, type=FileVersion)
        except (msgspec.DecodeError, CryptoError) as error:
            log.error("%s is not a file version: %s", found.where, error)
            return
        await self._follow(topic, found.partition, version)

    async def _follow(self, topic: str, partition: int, version: FileVersion) -> None:
        if self.wants_pdv(topic, version.path):
            await self._until_done("pdv", topic, partition, version, partial(self._pdv, topic, partition, version))
        for one in self.processors:
            if one.wants(topic, version.path):
                work = partial(self._process, one, topic, partition, version)
                await self._until_done(one.name, topic, partition, version, work)
        self._kept(topic, partition, version.file_id)

    async def _until_done(
        self, name: str, topic: str, partition: int, version: FileVersion, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Do the work, again while a store is away; what fails otherwise goes to quarantine, and the next file on."""
        while True:
            try:
                await work()
                return
            except (StoreUnavailable, OSError) as error:
                log.warning("%s waits for what follows it: %s", version.path, error)
                await asyncio.sleep(RETRY_SECONDS)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.exception("%s: %s failed", version.path, name)
                await self._quarantine(name, topic, partition, version, f"{type(error).__name__}: {error}")
                return

    async def _pdv(self, topic: str, partition: int, version: FileVersion) -> None:
        from openmsi_streams.pdv.run import matches

        loop = asyncio.get_running_loop()
        pdv = self.settings.pdv
        with tempfile.TemporaryDirectory(prefix="pdv-", dir=self._work()) as folder:
            source = await loop.run_in_executor(None, self._source, version, Path(folder))
            if self._match is None and not await loop.run_in_executor(None, matches, str(source)):
                return
            out = Path(folder) / "out"
            out.mkdir()
            provenance = {
                "file_id": version.file_id,
                "topic": version.topic,
                "path": version.path,
                "sha512": version.sha512,
            }
            arguments = {
                "source_path": str(source),
                "out_dir": str(out),
                "settings": self._pdv_settings(topic, version),
                "provenance": provenance,
            }

            def run() -> Outcome:
                return self._analyses.call(
                    "openmsi_streams.pdv.run:analyze_to_files",
                    arguments,
                    time_limit=pdv.time_limit,
                    memory_limit=pdv.memory_limit,
                )

            outcome = await loop.run_in_executor(None, run)
            if outcome.ok:
                result, names = outcome.value["result"], outcome.value["files"]
            else:
                log.warning("the analysis of %s failed: %s %s", version.path, outcome.error, outcome.traceback)
                result, names = _stopped(version, outcome.error, provenance), []
            metrics.PDV.labels(str(result["class"])).inc()
            metrics.PDV_SECONDS.labels(str(result["class"])).observe(outcome.seconds)
            records = await loop.run_in_executor(None, self._store_results, version, result, names, out)
        key = version.file_id.encode("ascii")
        document = msgspec.json.encode(result, order="deterministic")
        await asyncio.gather(
            self.publisher.send(beside(topic, "pdv"), key, document),
            *(self.publisher.send(name, k, v) for name, k, v in records),
        )
        table = self.tables.get(topic)
        if table is not None and (topic, partition) in self.engine.lanes:
            table.put(partition, key, document)
        self.engine.moves += 1

    def _pdv_settings(self, topic: str, version: FileVersion) -> dict[str, Any]:
        """Return what is said of a shot: settings that were given, rules for its path, its sidecar."""
        said = {name: value for name in SAID if (value := getattr(self.settings.pdv, name))}
        sidecar: dict[str, Any] = {}
        text = self.recorder.read(topic, f"{version.path}.pdv.toml")
        if text:
            try:
                sidecar = read_sidecar(text)
            except ConfigurationError as error:
                log.warning("the sidecar %s.pdv.toml is left out: %s", version.path, error)
        try:
            chosen = choose(said, self.settings.pdv.rules, topic, version.path, sidecar)
        except (ConfigurationError, ValueError) as error:
            log.warning("the settings of %s are wrong and are left out: %s", version.path, error)
            chosen = choose(said, self.settings.pdv.rules, topic, version.path)
        return {key: value for key, value in msgspec.to_builtins(chosen).items() if value not in (None, "")}

    async def _process(self, one: Processor, topic: str, partition: int, version: FileVersion) -> None:
        """Run a lab's processor until it is done or given up; then store what it made."""
        loop = asyncio.get_running_loop()
        limits = self.settings.processors
        attempt = 0
        with tempfile.TemporaryDirectory(prefix="source-", dir=self._work()) as folder:
            source = await loop.run_in_executor(None, self._source, version, Path(folder))
            delivered = DeliveredFile(
                path=source,
                topic=version.topic,
                relative=version.path,
                sha512=version.sha512,
                size=version.bytes,
                file_id=version.file_id,
                mtime=version.mtime,
                headers=version.headers,
                urls=tuple(d.url for d in version.deliveries),
            )
            while True:
                attempt += 1

                def run() -> Outcome:
                    return self._runner.run(
                        one, delivered, time_limit=limits.time_limit, memory_limit=limits.memory_limit
                    )

                try:
                    outcome = await loop.run_in_executor(None, run)
                except RunnerClosed:
                    return
                with outcome:
                    decision = decide(outcome, attempt, limits.retries)
                    self._note_outcome(one, outcome, decision.action)
                    if decision.action == "done":
                        await self._keep(one, version, delivered, outcome)
                        return
                log.warning("processor %s: %s", one.name, decision.message)
                if decision.action == "quarantine":
                    await self._quarantine(one.name, topic, partition, version, decision.message)
                    return
                await asyncio.sleep(decision.wait)

    async def _keep(self, one: Processor, version: FileVersion, delivered: DeliveredFile, outcome: Outcome) -> None:
        loop = asyncio.get_running_loop()
        file = verified(version)
        links: list[StoreLink] = []
        for made in outcome.produced.files:
            links += await loop.run_in_executor(None, self.recorder.store_beside, file, made.name, made.read())
        if outcome.produced.json:
            name, key, value = message(one, delivered, outcome.produced)
            await self.publisher.send(name, key, value)
        record = outcome.produced.record
        if record is not None:
            records = await loop.run_in_executor(None, self.recorder.of_analysis, version, record, links)
            await asyncio.gather(*(self.publisher.send(name, key, value) for name, key, value in records))

    async def _quarantine(self, name: str, topic: str, partition: int, version: FileVersion, why: str) -> None:
        metrics.QUARANTINED.labels(topic, str(Reason.PROCESSOR_FAILED)).inc()
        headers = {
            "kind": "processor",
            "topic": topic,
            "partition": str(partition),
            "reason": str(Reason.PROCESSOR_FAILED),
            "processor": name,
            "path": version.path,
            "sha512": version.sha512,
            "file_id": version.file_id,
            "message": self.engine.in_clear(topic, Reason.PROCESSOR_FAILED, why[-MAX_TEXT:]),
        }
        if self.engine.is_sealed(topic):
            del headers["path"]
        await self.publisher.send(
            beside(topic, "quarantine"),
            f"{version.file_id}.{name}".encode(),
            msgspec.json.encode(version),
            headers={header: text.encode("utf-8", "replace") for header, text in headers.items()},
        )

    def _note_outcome(self, one: Processor, outcome: Outcome, action: str) -> None:
        label = {"done": "ok", "retry": "retried", "quarantine": "failed"}[action]
        metrics.PROCESSED.labels(one.name, label).inc()
        known = self.outcomes.setdefault(one.name, {"ok": 0, "retried": 0, "failed": 0})
        known[label] += 1
        known.update(last_error=outcome.error, last_seconds=outcome.seconds, last_time=self.engine.clock())

    def processor_items(self) -> list[dict[str, Any]]:
        """Return the lab's processors with what became of their files, for the views."""
        return [
            {"name": one.name, "topics": list(one.topics), "match": list(one.match), **self.outcomes.get(one.name, {})}
            for one in self.processors
        ]

    def _work(self) -> Path:
        work = Path(self.settings.worker.data) / "work"
        work.mkdir(parents=True, exist_ok=True)
        return work

    def _source(self, version: FileVersion, folder: Path) -> Path:
        """Return a local file with the version's bytes: the disk store's, or one fetched from S3."""
        local = local_path(version.deliveries)
        if local is not None and local.exists():
            return local
        for store in self.stores:
            fetch = getattr(store, "fetch", None)
            if fetch is not None and any(d.store == store.name for d in version.deliveries):
                target = folder / version.path.rpartition("/")[2]
                fetch(verified(version, target), target)
                return target
        raise StoreError(f"No store can give {version.path!r} back. Check that the disk or S3 store still holds it.")

    def _store_results(self, version: FileVersion, result: dict[str, Any], names: list[str], out: Path) -> list[Record]:
        file = verified(version)
        links: list[StoreLink] = []
        for name in names:
            links += self.recorder.store_beside(file, name, (out / name).read_bytes())
        if not names:
            name = f"{Path(version.path).stem}.pdv.json"
            links += self.recorder.store_beside(file, name, msgspec.json.encode(result, order="deterministic"))
        result["stored"] = [{"kind": link.kind, "url": link.url} for link in links]
        return self.recorder.of_analysis(version, result, links)

    # -- for the views -----------------------------------------------------------------------------------------------

    def results(self, file_id: str) -> dict[str, Any] | None:
        """Return the PDV result of a file version, if this worker has it."""
        key = file_id.encode("ascii", "replace")
        for topic, partition in list(self.engine.lanes):
            table = self.tables.get(topic)
            value = table.get(partition, key) if table is not None else None
            if value is not None:
                found: dict[str, Any] = msgspec.json.decode(value)
                return found
        return None

    def pdv_items(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Yield (file id, PDV result) of this worker's partitions."""
        for topic, partition in list(self.engine.lanes):
            table = self.tables.get(topic)
            if table is not None:
                for key, value in table.items(partition):
                    if not key.startswith((RECORD_PREFIX, TODO_PREFIX)):
                        yield key.decode("ascii"), msgspec.json.decode(value)

    def note_record(self, topic: str, partition: int, file_id: str, summary: bytes) -> None:
        """Keep the summary of a file version's record for the views."""
        table = self.tables.get(topic)
        if table is not None and (topic, partition) in self.engine.lanes:
            table.put(partition, RECORD_PREFIX + file_id.encode("ascii"), summary)

    def records(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Yield (file id, summary) of the records of this worker's file versions."""
        for topic, partition in list(self.engine.lanes):
            table = self.tables.get(topic)
            for key, value in table.items(partition, RECORD_PREFIX) if table is not None else ():
                file_id = key[len(RECORD_PREFIX) :].decode("ascii")
                row = self.engine.row(file_id)
                if row is not None:
                    more = {"kind": "measurement_run", "topic": topic, "path": row.path, "time": row.updated}
                    yield file_id, {**msgspec.json.decode(value), **more}

    def sheet(self, file_id: str) -> bytes | None:
        """Return the PNG of a file version's sheet, from beside its file."""
        stem = self._stem(file_id)
        return self._read_beside(file_id, f"pdv_spall_plots_{stem}.png") or self._read_beside(
            file_id, f"pdv_velocity_plots_{stem}.png"
        )

    def record(self, file_id: str) -> bytes | None:
        """Return the GEMD document of a file version, from beside its file."""
        row = self.engine.row(file_id)
        return self._read_beside(file_id, f"{row.path.rpartition('/')[2]}.gemd.json") if row is not None else None

    def _stem(self, file_id: str) -> str:
        row = self.engine.row(file_id)
        return Path(row.path).stem if row is not None else ""

    def _read_beside(self, file_id: str, name: str) -> bytes | None:
        """Return a derived file from the first store that has it. Blocks."""
        row = self.engine.row(file_id)
        if row is None:
            return None
        local = local_path(row.deliveries)
        if local is not None:
            try:
                return (local.parent / name).read_bytes()
            except OSError:
                return None
        for store in self.stores:
            read = getattr(store, "read_beside", None)
            if read is not None and any(d.store == store.name for d in row.deliveries):
                found: bytes | None = read(row.topic, row.path, name)
                return found
        return None

    def close(self) -> None:
        """End the processes."""
        self._analyses.close()
        self._runner.close()


def _stopped(version: FileVersion, why: str, provenance: dict[str, str]) -> dict[str, Any]:
    return {
        "schema": "openmsi_streams.pdv/1",
        "file": version.path,
        "class": "unreadable",
        "reason": f"The analysis was stopped: {why}",
        "quantities": {},
        "quality": {"flags": ["analysis_stopped"]},
        "provenance": provenance,
    }
