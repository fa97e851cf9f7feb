"""The commands `upload` and `watch`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

import click
import msgspec

from openmsi_streams.config import Settings
from openmsi_streams.config.memory import share_heaps
from openmsi_streams.errors import ConfigurationError, CryptoError, OpenMSIStreamsError, UsageError
from openmsi_streams.producers import cleaning, options, readiness, report, skim, state, watcher
from openmsi_streams.producers.engine import Engine
from openmsi_streams.producers.filters import Filter
from openmsi_streams.producers.registry import Registry, Row
from openmsi_streams.producers.sender import no_progress

log = logging.getLogger(__name__)

# Ending waits so long for what the broker is about to acknowledge; a service host kills after 20 to 90 s.
# Workers ask for keys every few seconds; one that starts now needs half a minute.
LINGER_SECONDS = 60.0
FINISH_SECONDS = 10.0


def stop_on_signals(stop: Callable[[], None]) -> None:
    """End cleanly on SIGTERM, Ctrl-C and a closed console; the second signal ends at once."""
    asked = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            os._exit(128 + number)
        asked.set()
        stop()

    # SIGBREAK is what Windows sends when the console is closed or a service host asks.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        # `nohup` has it ignored: then it stays so.
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            try:
                signal.signal(getattr(signal, name), handler)
            except (ValueError, OSError) as error:
                log.debug("%s: %s", name, error)


class Keys:
    """The node of an encrypted topic, or nothing where the topic is in the clear."""

    def __init__(self, node: Any = None) -> None:
        self.node = node

    @property
    def options(self) -> dict[str, Any]:
        """Return ``seal`` and ``open_`` for the engine."""
        if self.node is None:
            return {}
        # A node that may only hand out keys cannot read receipts: they stay closed, and files are kept.
        return {"seal": self.node.seal, "open_": self.node.open if self.node.may_read else lambda *_: None}

    def check(self) -> None:
        """Raise CryptoError if no key can be exchanged any more: nothing that is sealed now could be read."""
        if self.node is not None and not self.node.alive():
            raise CryptoError(f"{self.node.failure()}. Start the program again; what is not sent goes on.")

    def linger(self, progress: report.Progress, stopping: Callable[[], bool]) -> None:
        """Wait until a reader has the keys of what was sent: they live in this process."""
        if self.node is None or self.node.linger(0.0):
            return
        progress.line(f"waiting up to {LINGER_SECONDS:g} s for a worker to fetch the keys of what was sent")
        if not self.node.linger(LINGER_SECONDS, stopping):
            progress.line(
                "warning: no worker has asked for the keys yet. The files can be read when this node runs again, or "
                "from the vault (`openmsi-streams crypto recover`)."
            )


@contextlib.contextmanager
def encrypting(settings: Settings, topic: str) -> Iterator[Keys]:
    """Open the node if this topic is encrypted; the encryption's packages are loaded only then."""
    if not settings.crypto.node:
        yield Keys()
        return
    import importlib

    crypto = importlib.import_module("openmsi_streams.crypto.node")
    if not crypto.is_encrypted(settings, topic):
        yield Keys()
        return
    node = crypto.open_node(settings, role="producer", topics=[topic])
    if not node.may_read:
        log.warning("The node may hand out keys but not ask for any: receipts stay closed. Provision it as `both`.")
    try:
        yield Keys(node)
    finally:
        node.close()


@contextlib.contextmanager
def only_one(folder: Path | None, root: Path, topic: str) -> Iterator[None]:
    """Hold the locks of a folder and topic."""
    locks: list[IO[str]] = state.lock(folder, root, topic) if folder is not None else []
    try:
        yield
    finally:
        for one in locks:
            one.close()


# -- upload


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@options.common
@click.option("--wait-for-receipts", type=float, default=0.0, help="Also wait so many seconds for proofs of delivery.")
@click.option("--give-up", type=float, default=60.0, show_default=True, help="Seconds without any answer of a broker.")
def upload(paths: tuple[str, ...], wait_for_receipts: float, give_up: float, **given: Any) -> int:
    """Send files, and folders with all below them, and wait until the broker has them.

    Exits with 0 if the broker has every file, 1 otherwise, 2 for wrong usage. With --state, what an earlier run sent
    is not sent again.
    """
    topic = options.topic_of(given)
    settings = options.settings_of(given)
    sources = find_sources(paths, Filter(settings.producer.include, settings.producer.exclude))
    common = Path(sources.common)
    # Without --state an upload is meant to happen, whatever was sent before.
    folder = state.state_folder(given["state"], common, topic) if given["state"] else None
    failed: dict[str, str] = {}
    done: dict[str, str] = {}
    progress = report.Progress()

    def change(row: Row) -> None:
        if row.state == "failed":
            failed[row.path] = row.reason
        elif row.state in ("sent", "delivered"):
            failed.pop(row.path, None)
            if done.get(row.path) == row.state:
                return
            done[row.path] = row.state
        progress.row(row)

    with only_one(folder, common, topic), encrypting(settings, topic) as keys:
        engine = Engine(
            settings, topic, Registry(folder / state.REGISTRY if folder else None), sources.files.__getitem__,
            select=skim.selector(settings.producer.select), selected="; ".join(settings.producer.select),
            on_change=change, **keys.options,
        )  # fmt: skip
        stop_on_signals(engine.stop)
        try:
            engine.connect()
            engine.look_at(sources.found)
            for path in sources.files:
                row = engine.registry.get(path)
                if row is not None and row.state in ("sent", "delivered"):
                    done[path] = row.state
            _until_sent(engine, settings, progress, give_up)
            keys.check()
            keys.linger(progress, lambda: engine.stopping)
            deadline = time.monotonic() + wait_for_receipts
            while time.monotonic() < deadline and not engine.stopping:
                if all(done.get(path) == "delivered" or path in failed for path in sources.files):
                    break
                engine.turn(0.2)
        finally:
            progress.close()
            left = engine.close(FINISH_SECONDS)
    wanted = "delivered" if wait_for_receipts else "sent"
    missing = [path for path in sources.files if done.get(path) not in (wanted, "delivered")]
    for path in missing[:20]:
        progress.line(f"error: {path}: {failed.get(path) or _unfinished(wanted, done.get(path))}")
    if len(missing) > 20:
        progress.line(f"error: and {len(missing) - 20} more")
    progress.line(f"{len(sources.files) - len(missing)} of {len(sources.files)} files {wanted}")
    return 1 if missing or left else 0


def _unfinished(wanted: str, has: str | None) -> str:
    if wanted == "delivered" and has == "sent":
        return "the broker has it, but no receipt came. Is a worker running for this topic?"
    return "not sent"


def _until_sent(engine: Engine, settings: Settings, progress: report.Progress, give_up: float) -> None:
    while engine.busy and not engine.stopping:
        engine.turn()
        progress.tick(engine)
        if engine.sender.in_flight and time.monotonic() - engine.sender.last_ack > give_up:
            raise no_progress(settings, engine.sender)
        if engine.connect_error:
            raise OpenMSIStreamsError(engine.connect_error)


class Sources(msgspec.Struct):
    """The files of a command line with their relative paths."""

    files: dict[str, Path] = {}
    found: list[watcher.Found] = []
    common: str = ""


def find_sources(paths: tuple[str, ...], filter_: Filter) -> Sources:
    """Return the files that the paths of a command line stand for.

    Raises:
        UsageError: a path does not exist, or two files would have the same relative path.
    """
    sources = Sources()

    def add(path: str, source: Path, size: int, mtime_ns: int) -> None:
        if path in sources.files:
            if sources.files[path] == source:
                return
            raise UsageError(
                f"{source} and {sources.files[path]} would both be sent as {path!r}. Send them in two commands, or "
                "give the folder above both."
            )
        sources.files[path] = source
        sources.found.append((path, size, mtime_ns))

    for text in paths:
        given = Path(text).expanduser().absolute()
        try:
            found = given.stat()
        except OSError as error:
            raise UsageError(f"{text} cannot be sent: {error.strerror}. Check the path.") from None
        if given.is_dir():
            for path, size, mtime_ns in watcher.walk(given, on_skip=_say_skipped):
                if why := filter_.why_not(path):
                    _say_skipped(path, why)
                else:
                    add(path, given / path, size, mtime_ns)
        else:
            # A file that is named is meant, whatever the patterns say.
            add(given.name, given, found.st_size, found.st_mtime_ns)
    sources.common = os.path.commonpath([str(Path(text).expanduser().absolute()) for text in paths])
    return sources


def _say_skipped(path: str, why: str) -> None:
    click.echo(f"skipped {path.encode('utf-8', 'backslashreplace').decode()}: {why}", err=True)


# -- watch


@click.command()
@click.argument("folder", metavar="DIR")
@options.common
@options.watching
@click.option("--list", "as_table", is_flag=True, help="Show the registry as a table and end.")
@click.option("--json", "as_json", is_flag=True, help="Show the registry as data and end.")
def watch(folder: str, as_table: bool, as_json: bool, **given: Any) -> int:
    """Watch a folder and send each file when it is whole.

    `q` and Enter, Ctrl-C or SIGTERM end it; `c` and Enter show the state. What is not sent by then is recorded and goes
    on at the next start.
    """
    share_heaps()
    topic = options.topic_of(given)
    settings = options.settings_of(given)
    root = Path(folder).expanduser().absolute()
    where = state.state_folder(settings.producer.state, root, topic)
    if not root.is_dir() and not (where / state.REGISTRY).exists():
        raise UsageError(f"{folder} is not a folder. Check the path, or that the network drive is there.")
    if as_table or as_json:
        return _show(where, as_json)
    if where.is_relative_to(root):
        raise ConfigurationError(f"The state folder {where} lies inside the watched folder. Choose another --state.")
    policy = cleaning.Policy.parse(settings.producer.when_delivered, root)
    filter_ = Filter(settings.producer.include, _excluded(settings))
    select = skim.selector(settings.producer.select)
    progress = report.Progress()
    with only_one(where, root, topic), encrypting(settings, topic) as keys:
        reporter = report.Reporter(settings, topic, where, root)
        reporter.start()
        engine = Engine(
            settings, topic, Registry(where / state.REGISTRY), lambda path: root / path, rules=_rules(settings),
            filter_=filter_, policy=policy, select=select, selected="; ".join(settings.producer.select),
            on_change=progress.row, on_skip=lambda path, why: progress.line(f"skipped {path}: {why}"),
            connect_seconds=5.0, **keys.options,
        )  # fmt: skip
        looking = watcher.Watcher(
            root,
            lambda found: engine.inbox.put(("found", found)),
            lambda problem: engine.inbox.put(("walked", problem)),
            polling=settings.producer.polling,
            rescan_seconds=settings.producer.rescan_seconds,
            on_skip=lambda path, why: engine.inbox.put(("skip", (path, why))),
        )
        stop_on_signals(engine.stop)
        report.listen_to_console(engine.stop, lambda: engine.inbox.put(("check", None)))
        try:
            engine.begin(hold=True)
            looking.start()
            progress.line(f"watching {root}, sending to {topic} at {settings.broker.bootstrap}")
            while not engine.stopping:
                engine.turn()
                keys.check()
                if engine.check_asked:
                    engine.check_asked = False
                    progress.line(msgspec.json.encode(report.state_of(engine)).decode())
                reporter.tick(engine)
                progress.tick(engine)
        finally:
            looking.stop()
            progress.close()
            reporter.last_words(engine)
            left = engine.close(FINISH_SECONDS)
            reporter.stop()
    progress.line("stopped; what is not sent is recorded and goes on at the next start")
    log.info("stopped with %d messages not acknowledged", left)
    return 0


def _rules(settings: Settings) -> list[readiness.Rule]:
    producer = settings.producer
    rules = [readiness.quiet(producer.quiet_seconds), readiness.unlocked(), readiness.lecroy_whole]
    if producer.stable_looks:
        rules.append(readiness.stable(producer.stable_looks))
    if producer.done_marker:
        rules.append(readiness.done_marker(producer.done_marker))
    return rules


def _excluded(settings: Settings) -> list[str]:
    """A marker says that another file is whole; it is no data itself."""
    marker = settings.producer.done_marker
    return [*settings.producer.exclude, *([f"*{marker}"] if marker else [])]


def _show(where: Path, as_json: bool) -> int:
    if not (where / state.REGISTRY).exists():
        raise UsageError(f"There is no registry at {where}: this folder was never watched for this topic.")
    registry = Registry(where / state.REGISTRY)
    rows, counts = list(registry.rows()), registry.counts()
    registry.close()
    if as_json:
        click.echo(msgspec.json.encode({"counts": counts, "files": rows}).decode())
        return 0
    width = max((len(row.path) for row in rows), default=4)
    click.echo(f"{'path':<{width}}  {'state':<9}  {'bytes':>14}  note")
    for row in rows:
        click.echo(f"{row.path:<{width}}  {row.state:<9}  {row.size:>14}  {row.reason}".rstrip())
    click.echo(", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no files")
    return 0
