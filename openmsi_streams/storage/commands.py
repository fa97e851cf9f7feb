"""`openmsi-streams verify` and `openmsi-streams fetch`."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click
import msgspec

from openmsi_streams.chunks.paths import component_problem, shown
from openmsi_streams.chunks.topics import beside
from openmsi_streams.config.commands import CONFIG
from openmsi_streams.config.load import load
from openmsi_streams.config.settings import Settings
from openmsi_streams.errors import OpenMSIStreamsError, StoreError, UsageError
from openmsi_streams.storage import Verified, compare, stores_from
from openmsi_streams.storage.receipts import read_receipts

_HELP = {"help_option_names": ["-h", "--help"]}
_FILE_ID = re.compile(r"^[0-9a-f]{32}$")
BOOTSTRAP = click.option("--bootstrap", help="Broker addresses, host:port with commas between.")


@click.command(context_settings=_HELP)
@click.argument("topics", metavar="[TOPIC]...", nargs=-1)
@CONFIG
@BOOTSTRAP
@click.option("--root", type=click.Path(file_okay=False), help="Folder of the disk store, instead of `disk.root`.")
@click.option("--store", "names", multiple=True, metavar="NAME", help="Check only this store (disk or an S3 name).")
@click.option("--deep", is_flag=True, help="Read and hash every byte, instead of comparing sizes and metadata.")
@click.option("--source", type=click.Path(file_okay=False), help="Also compare a producer's folder with what arrived.")
@click.option(
    "--registry", type=click.Path(dir_okay=False), help="Also compare a producer's registry (registry.sqlite3)."
)
@click.option("--all", "show_all", is_flag=True, help="List what is equal too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(
    topics: tuple[str, ...],
    path: str | None,
    bootstrap: str | None,
    root: str | None,
    names: tuple[str, ...],
    deep: bool,
    source: str | None,
    registry: str | None,
    show_all: bool,
    as_json: bool,
) -> None:
    """Compare what receipts say with disk, S3 and source folders.

    TOPIC is a chunk topic; without one, `worker.topics` are meant. Exit code 1 on any difference.
    """
    flags = {"broker.bootstrap": bootstrap, "disk.root": root, "worker.topics": list(topics) or None}
    settings = load(path, flags)
    chosen = settings.worker.topics
    if not chosen:
        raise UsageError("No topic was given. Name one, or set worker.topics.")
    if (source or registry) and len(chosen) != 1:
        raise UsageError("A source belongs to one topic: name that topic.")
    stores = _stores(settings, names)
    findings: list[compare.Finding] = []
    for topic in chosen:
        receipts = list(read_receipts(settings, topic).values())
        if not receipts:
            click.echo(
                f"There are no receipts on {beside(topic, 'receipts')}, so nothing can be proved: no worker has "
                "delivered a file of this topic yet, its receipts are older than the topic keeps them, or this is "
                f"another broker than the worker's ({settings.broker.bootstrap}). Check the topic's name and the "
                "broker, and with `openmsi-streams status` that a worker runs.",
                err=True,
            )
        findings += compare.check_stores(stores, receipts, topic, deep=deep)
        if source:
            findings += compare.check_source(compare.folder_files(Path(source)), receipts, topic)
        if registry:
            findings += compare.check_source(compare.registry_files(Path(registry)), receipts, topic)
    counts = Counter(finding.status for finding in findings)
    wrong = [finding for finding in findings if finding.status != "equal"]
    listed = findings if show_all else wrong
    if as_json:
        answer = {
            "ok": not wrong,
            "topics": chosen,
            "stores": [store.name for store in stores],
            "deep": deep,
            "counts": {status: counts.get(status, 0) for status in ("equal", "missing", "different", "extra")},
            "findings": listed,
        }
        click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=1).decode())
    else:
        _table(listed)
        total = ", ".join(f"{counts.get(status, 0)} {status}" for status in ("equal", "missing", "different", "extra"))
        click.echo(f"{total} ({'every byte hashed' if deep else 'sizes and metadata; --deep hashes every byte'})")
    sys.exit(1 if wrong else 0)


def _table(findings: Iterable[compare.Finding]) -> None:
    rows = [(str(one.status), one.where, one.topic, _safe(one.path), one.why) for one in findings]
    if not rows:
        return
    rows.insert(0, ("STATUS", "WHERE", "TOPIC", "PATH", "WHY"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, (*widths, 0), strict=True)).rstrip())


def _safe(path: str) -> str:
    return path if path.isprintable() else shown(path)


def _stores(settings: Settings, names: Iterable[str]) -> list[Any]:
    wanted = set(names)
    known = {*settings.s3, *(["disk"] if settings.disk.root else [])}
    if wanted - known:
        have = ", ".join(sorted(known)) or "none"
        raise UsageError(f"There is no store {sorted(wanted - known)[0]!r} in the settings. Known: {have}.")
    stores: list[Any] = [
        store
        for store in stores_from(settings, wanted & set(settings.s3) if wanted else None)
        if not wanted or store.name in wanted
    ]
    if not stores:
        raise UsageError("The settings name no store. Give --root DIR, or set disk.root or [s3.NAME].")
    return stores


@click.command(context_settings=_HELP)
@click.argument("topic")
@click.argument("what", metavar="PATH|PATTERN|FILE_ID...", nargs=-1, required=True)
@CONFIG
@BOOTSTRAP
@click.option(
    "--to", "target", type=click.Path(file_okay=False), default=".", show_default=True, help="Folder to fill."
)
@click.option("--store", "name", metavar="NAME", help="S3 store to read from; needed when the settings have several.")
@click.option("--force", is_flag=True, help="Replace files that are there with other bytes.")
def fetch(
    topic: str,
    what: tuple[str, ...],
    path: str | None,
    bootstrap: str | None,
    target: str,
    name: str | None,
    force: bool,
) -> None:
    """Get delivered files back from S3, each verified by its sha512.

    A PATH is a file's path below the watched folder; a PATTERN has * or ? in it. A FILE_ID (32 hex digits) is looked up
    in the topic's receipts, which need the broker; paths need S3 alone.
    """
    settings = load(path, {"broker.bootstrap": bootstrap})
    store = _s3_store(settings, name)
    failed = 0
    for file in _wanted(settings, store, topic, what):
        try:
            place = _place(Path(target), file.relative)
            if place.exists() and not force:
                if _is_same(place, file):
                    click.echo(f"{place}: is there already")
                    continue
                raise UsageError(f"{place} is there with other bytes. Move it away, or use --force.")
            size = store.fetch(file, place)
            click.echo(f"{place}: {size} bytes, sha512 {file.sha512[:16]}… verified")
        except (OpenMSIStreamsError, OSError) as error:
            failed += 1
            click.echo(f"error: {error}", err=True)
    sys.exit(1 if failed else 0)


def _s3_store(settings: Settings, name: str | None) -> Any:
    if not settings.s3:
        raise UsageError("The settings name no S3 store. Set [s3.NAME] with its bucket.")
    if name is None and len(settings.s3) > 1:
        raise UsageError(f"There are several S3 stores: choose one with --store ({', '.join(settings.s3)}).")
    chosen = name or next(iter(settings.s3))
    if chosen not in settings.s3:
        raise UsageError(f"There is no S3 store {chosen!r} in the settings. Known: {', '.join(settings.s3)}.")
    return next(store for store in stores_from(settings, [chosen]) if store.kind == "s3")


def _wanted(settings: Settings, store: Any, topic: str, what: Iterable[str]) -> Iterator[Verified]:
    receipts: dict[str, Any] | None = None
    for word in what:
        if _FILE_ID.match(word):
            receipts = receipts if receipts is not None else read_receipts(settings, topic)
            receipt = receipts.get(word)
            if receipt is None:
                raise StoreError(f"No receipt on {topic} has the file id {word}. `openmsi-streams status` lists them.")
            yield _file(topic, receipt.path, receipt.sha512, receipt.bytes)
            continue
        pattern = "*" in word or "?" in word
        paths = [one.path for one in store.list(topic) if fnmatchcase(one.path, word)] if pattern else [word]
        if not paths:
            raise StoreError(f"No object of {topic} matches {word!r} in {store!r}.")
        for path in paths:
            found = store.describe(topic, path)
            if found is None:
                raise StoreError(
                    f"{store!r} has no object for {shown(path)} of {topic}. `verify` says what is missing."
                )
            if not found.sha512:
                raise StoreError(f"{found.url} was not put there by a worker: it has no sha512 to verify it with.")
            yield _file(topic, path, found.sha512, found.size, found.mtime)


def _file(topic: str, relative: str, sha512: str, size: int, mtime: float | None = None) -> Verified:
    return Verified(path=Path(), file_id="", topic=topic, relative=relative, sha512=sha512, size=size, mtime=mtime)


def _place(folder: Path, relative: str) -> Path:
    parts = relative.split("/")
    for part in parts:
        problem = component_problem(part)
        if problem:
            raise StoreError(f"The path {shown(relative)} {problem}; it is not written here.")
    return folder.joinpath(*parts)


def _is_same(place: Path, file: Verified) -> bool:
    from openmsi_streams.storage.base import hash_file

    return place.is_file() and place.stat().st_size == file.size and hash_file(place) == file.sha512
