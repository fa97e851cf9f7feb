"""Builds the Faust app and wires engine, stores, agents and views. `faust -A openmsi_streams.app worker` starts it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmsi_streams.agents import after as after_agents
from openmsi_streams.agents import chunks as chunk_agents
from openmsi_streams.assembly.log import LogReader
from openmsi_streams.chunks.topics import check_topic, table_names
from openmsi_streams.config import kafka, load
from openmsi_streams.config.checks import require
from openmsi_streams.config.memory import share_heaps
from openmsi_streams.config.settings import MIB, Settings
from openmsi_streams.config.topics import ensure_topics, read_broker
from openmsi_streams.errors import ConfigurationError, ExtraMissing, TopicError
from openmsi_streams.storage import stores_from
from openmsi_streams.tables.catchup import before_recovery
from openmsi_streams.tables.files import FilesTable
from openmsi_streams.worker.after import Follower
from openmsi_streams.worker.deliver import Deliverer
from openmsi_streams.worker.engine import Engine
from openmsi_streams.worker.fetching import adapt
from openmsi_streams.worker.gate import Gate, SealingPublisher
from openmsi_streams.worker.kafka import ClientPublisher
from openmsi_streams.worker.ports import Publisher
from openmsi_streams.worker.recover import Recovery
from openmsi_streams.worker.sweep import Sweeper
from openmsi_streams.worker.watch import Watch

log = logging.getLogger(__name__)

# A session must outlive a pause of the whole machine (a snapshot, a full disk's stall); heartbeats are a third of it.
HEARTBEATS_A_SESSION = 6.0
# A rebalance that another follows must not wait longer for this worker; what is not read by then, Faust reads. Under a
# session in any case: aiokafka sends no heartbeats before the callback has returned.
CATCH_UP_SECONDS = 10.0
# A last heartbeat; a broker that is away does not keep a worker from ending.
LEAVE_SECONDS = 2.0
# Answers of several chunks; memory for single ones of the default size is used again hundreds of times a second.
LARGE_BYTES = 2 * MIB
# An event loop that waits for a full disk must not be thrown out of its group: a day.
MAX_POLL_SECONDS = 86400.0


@dataclass
class Worker:
    """The parts of a running worker, for views and tests."""

    settings: Settings
    app: Any
    engine: Engine
    deliverer: Deliverer
    recovery: Recovery
    sweeper: Sweeper
    follower: Follower
    watch: Watch
    tables: dict[str, FilesTable]
    after_tables: dict[str, FilesTable]
    publisher: ClientPublisher
    gate: Gate | None

    def close(self) -> None:
        """End threads and processes."""
        self.follower.close()
        self.engine.close()
        self.publisher.close()
        if self.gate is not None:
            self.gate.close()


def build(settings: Settings | None = None) -> Any:
    """Return the Faust app of a worker, its topics made and checked; ``app.openmsi`` holds the `Worker`.

    Raises:
        ConfigurationError: a setting is wrong; BrokerError: the broker cannot be reached; TopicError: a topic would
            break the tables.
    """
    share_heaps(LARGE_BYTES)
    settings = load() if settings is None else settings
    topics = settings.worker.topics
    if not topics:
        raise ConfigurationError("No topic is given. Set worker.topics, or use `openmsi-streams worker --topic NAME`.")
    for topic in topics:
        check_topic(topic)
    if settings.s3 or settings.disk.root:
        stores = stores_from(settings)
    else:
        raise ConfigurationError("No store is given. Set disk.root to a folder, or write an [s3.NAME] section.")
    for problem in require(settings, "worker"):
        log.warning("%s", problem.line())
    data = Path(settings.worker.data or _default_data(settings)).absolute()
    settings.worker.data = str(data)
    data.mkdir(parents=True, exist_ok=True)
    for topic in topics:
        ensure_topics(settings, [topic], tables=table_names(topic))
    partitions = _partitions(settings, topics)
    app = _faust_app(settings, data)
    adapt(app, settings, _fault)

    client = ClientPublisher(settings, _fault)
    gate = _gate(settings, topics)
    publisher: Publisher = client
    ciphers = dict.fromkeys(topics)
    if gate is not None:
        publisher = SealingPublisher(client, gate, topics)
        ciphers = {topic: gate.cipher if gate.covers(topic) else None for topic in topics}
    tables = {
        topic: FilesTable(app, table_names(topic)[0], partitions[topic], client.put, ciphers[topic]) for topic in topics
    }
    engine = Engine(settings, dict(tables), partitions, publisher, on_fault=_fault)
    engine.gate = gate
    follower = Follower(engine, stores, publisher)
    follower.ciphers = ciphers
    deliverer = Deliverer(engine, stores, follower.emitter(), follower.wants)
    deliverer.note_record = follower.note_record
    deliverer.announce = follower.announce
    deliverer.promise = follower.promise
    engine.sidecar = follower.sidecar
    reader = LogReader(kafka.consumer(settings), settings.worker.memory_budget // 8)
    recovery = Recovery(engine, reader, app.conf.id)
    sweeper = Sweeper(engine, deliverer, recovery)
    watch = Watch(app, engine, deliverer, recovery, stores)
    after_tables = {}
    for topic in topics:
        chunk_agents.declare(app, engine, topic)
        after_agents.declare(app, follower, topic)
        after_tables[topic] = FilesTable(app, table_names(topic)[1], partitions[topic], client.put, ciphers[topic])
    follower.tables.update(after_tables)
    both = [*tables.values(), *after_tables.values()]
    _find_ends(reader, both, partitions)
    before_recovery(app, kafka.consumer(settings), both, min(CATCH_UP_SECONDS, 0.75 * app.conf.broker_session_timeout))
    app.openmsi = Worker(
        settings, app, engine, deliverer, recovery, sweeper, follower, watch, tables, after_tables, client, gate
    )
    _connect(app, app.openmsi)
    return app


def _find_ends(reader: LogReader, tables: list[FilesTable], partitions: dict[str, int]) -> None:
    """Tell each table that an earlier run left here where its changelog ends now, to see whether that was deleted."""
    places = {
        (table.changelog, partition): table
        for table in tables
        for partition in range(max(partitions.values()))
        if table.has_local(partition)
    }
    for (name, partition), (_, end) in (reader.bounds(list(places)) if places else {}).items():
        places[(name, partition)].ends[partition] = end


def _gate(settings: Settings, topics: list[str]) -> Gate | None:
    if not settings.crypto.node:
        return None
    from openmsi_streams.crypto.node import open_node
    from openmsi_streams.crypto.tables import table_cipher

    node = open_node(settings, role="worker", topics=topics)
    return Gate(settings, node, table_cipher(Path(settings.crypto.node)))


def _faust_app(settings: Settings, data: Path) -> Any:
    try:
        import faust
    except ModuleNotFoundError as error:
        raise ExtraMissing("The worker", "server", error.name or "") from None
    worker = settings.worker
    session = 6.0 if worker.profile == "embedded" else worker.session_seconds
    largest = max(kafka.message_bytes(settings), 1 * MIB)
    # A quarter of the budget for each: fetched and waiting in the stream, on its way to disk, refills, uploads.
    waiting = max(4, settings.worker.memory_budget // 4 // settings.chunks.chunk_bytes)
    from openmsi_streams.tables.assignor import LeanAssignor
    from openmsi_streams.tables.manager import PromptManager

    return faust.App(
        worker.id,
        PartitionAssignor=LeanAssignor,
        TableManager=PromptManager,
        **kafka.faust_options(settings),
        store="rocksdb://",
        datadir=str(data / "faust"),
        autodiscover=False,
        processing_guarantee="at_least_once",
        topic_replication_factor=settings.topic.replication,
        topic_partitions=settings.topic.partitions,
        topic_disable_leader=True,
        table_standby_replicas=worker.replicas,
        stream_buffer_maxsize=min(waiting, 4096),
        stream_wait_empty=False,
        consumer_auto_offset_reset="earliest",
        producer_max_request_size=max(settings.chunks.largest_chunk + MIB, largest),
        broker_session_timeout=session,
        broker_rebalance_timeout=session,
        broker_heartbeat_interval=session / HEARTBEATS_A_SESSION,
        broker_max_poll_interval=MAX_POLL_SECONDS,
        broker_request_timeout=max(90.0, session + 10.0),
        web_host=settings.web.host,
        web_bind=settings.web.host,
        web_port=settings.web.port or 6066,
        web_tables_enabled=False,
        web_router_enabled=False,
        loghandlers=[],
        logging_config=None,
    )


def _connect(app: Any, worker: Worker) -> None:
    engine = worker.engine

    async def adopt(*_: Any, **__: Any) -> None:
        assigned = {(tp.topic, tp.partition) for tp in app.consumer.assignment() if tp.topic in engine.tables}
        standby = app.assignor.assigned_standbys()
        owned = {
            place for place in assigned if not any(tp.topic == place[0] and tp.partition == place[1] for tp in standby)
        }
        for name, partition in owned:
            for table in (worker.tables[name], worker.after_tables[name]):
                restored = table.restore(partition)
                if restored:
                    log.warning("%s[%d]: %d rows sent to the changelog again", name, partition, restored)
        await worker.recovery.adopt(owned)
        worker.follower.adopt()
        worker.watch.adopted()

    app.on_rebalance_complete.connect(adopt, weak=False)

    @app.task
    async def sweep() -> None:
        try:
            await worker.sweeper.run()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("the sweep failed")
            _fault(error)

    @app.task
    async def watch() -> None:
        await worker.watch.run()

    @app.task
    async def catch_up() -> None:
        await worker.follower.run()

    if worker.gate is not None:
        gate = worker.gate

        @app.task
        async def open_parked() -> None:
            try:
                await gate.run(engine, worker.recovery)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.exception("parked messages cannot be opened")
                _fault(error)

    async def before_shutdown(*_: Any, **__: Any) -> None:
        await worker.recovery.stop()
        await worker.deliverer.stop()
        engine.flush_all()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(worker.watch.leave(), LEAVE_SECONDS)
        await asyncio.get_running_loop().run_in_executor(None, worker.publisher.flush, 5.0)

    app.on_before_shutdown.connect(before_shutdown, weak=False)
    from openmsi_streams.web.index import Index
    from openmsi_streams.web.mount import mount

    index = Index()
    engine.index = index
    mount(
        app,
        worker.watch,
        index,
        worker.settings,
        worker=worker.watch.worker_id,
        results=worker.follower,
        processors=worker.follower.processor_items,
        open_=worker.gate.open_now if worker.gate is not None else None,
    )


def _partitions(settings: Settings, topics: list[str]) -> dict[str, int]:
    found = read_broker(settings, names=topics)
    missing = [topic for topic in topics if topic not in found]
    if missing:
        raise TopicError(
            f"The topic {missing[0]!r} is not there and could not be made. Run `openmsi-streams topics apply`."
        )
    return {topic: found[topic].partitions for topic in topics}


def _default_data(settings: Settings) -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("openmsi-streams")) / settings.worker.id


def _fault(error: BaseException) -> None:
    """End the process: a message could be neither processed nor put into quarantine, so its offset is not passed.

    Nothing is tidied up: every state on disk, in the table and in the log is made to be killed at any moment, and an
    orderly stop would commit offsets.
    """
    print(
        f"error: the worker stops, so that nothing is lost: {type(error).__name__}: {error}. "
        "Start it again when the cause is mended; it goes on where it was.",
        file=sys.stderr,
        flush=True,
    )
    logging.shutdown()
    os._exit(1)


def __getattr__(name: str) -> Any:
    """Build ``app`` when Faust's own command line asks for it (``faust -A openmsi_streams.app worker``)."""
    if name == "app":
        built = build()
        globals()["app"] = built
        return built
    raise AttributeError(name)
