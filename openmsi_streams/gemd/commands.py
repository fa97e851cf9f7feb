"""The `gemd` commands: export records, check a mapping, lint, import the laser-shock laboratory's records."""

from __future__ import annotations

import hashlib
import json
import mimetypes
from pathlib import Path
from typing import Any

import click

from openmsi_streams.config.load import load as load_settings
from openmsi_streams.config.settings import S3Settings, Settings
from openmsi_streams.errors import OpenMSIStreamsError, UsageError
from openmsi_streams.gemd import collect, export, ids, lasershock, read
from openmsi_streams.gemd.bounds import out_of_bounds
from openmsi_streams.gemd.emit import FileFacts, StoreLink, records_for_file
from openmsi_streams.gemd.lint import lint as find_breaches
from openmsi_streams.gemd.mapping import Mapping

CONFIG = click.option(
    "--config", "config", type=click.Path(dir_okay=False), help="Settings file, for broker and stores."
)
BOOTSTRAP = click.option("--bootstrap", help="Broker addresses, host:port with commas between.")
ENDPOINT = click.option("--endpoint-url", help="URL of the S3 server, when it is not AWS.")
FORM = click.option("--form", type=click.Choice(export.FORMS), help="By default told by the ending of OUT.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def gemd() -> None:
    """Export, check and lint GEMD records.

    A SOURCE is a file or folder with *.gemd.json, s3://BUCKET/PREFIX, or topic:NAME (the chunk topic's name).
    """


def _settings(config: str | None, bootstrap: str | None, endpoint: str | None, source: str) -> Settings:
    settings = load_settings(config, {"broker.bootstrap": bootstrap})
    if endpoint is not None and source.startswith("s3://"):
        bucket = source[5:].partition("/")[0]
        known = next((store for store in settings.s3.values() if store.bucket == bucket), None)
        if known is None:
            known = settings.s3["gemd export"] = S3Settings(bucket=bucket)
        known.endpoint = endpoint
    return settings


def _read(source: str, settings: Settings) -> list[dict[str, Any]]:
    return list(read.iter_records(collect.documents(source, settings)))


@gemd.command("export")
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@FORM
@CONFIG
@BOOTSTRAP
@ENDPOINT
def export_command(
    source: str, out: Path, form: str | None, config: str | None, bootstrap: str | None, endpoint_url: str | None
) -> None:
    """Write the records of SOURCE to OUT.

    OUT ending in .json is one GEMD document of all, .csv one row per shot, .graphml the graph; else a folder with one
    document per record. --form objects writes one thin file per object, for openmsimodel.
    """
    wanted = export.form_of(out, form)
    records = _read(source, _settings(config, bootstrap, endpoint_url, source))
    if not records:
        raise UsageError(f"{source} holds no GEMD records. Records are made when a worker delivers files.")
    click.echo(export.write(wanted, out, records, read.merge(records)))


@gemd.command("lint")
@click.argument("source", nargs=-1, required=True)
@click.option("--open-links/--no-open-links", default=True, help="Report links to objects that are not there.")
@CONFIG
@BOOTSTRAP
@ENDPOINT
def lint_command(
    source: tuple[str, ...], open_links: bool, config: str | None, bootstrap: str | None, endpoint_url: str | None
) -> None:
    """Apply the rules of the written GEMD specification, and the templates' limits, to all objects of SOURCE.

    Exits with 1 if one is broken.
    """
    records = [record for item in source for record in _read(item, _settings(config, bootstrap, endpoint_url, item))]
    objects = read.merge(records)
    findings = [*find_breaches(objects, open_links=open_links), *out_of_bounds(objects)]
    for finding in findings:
        click.echo(f"{finding.rule}: {finding.where}: {finding.message}")
    click.echo(f"{len(objects)} objects, {len(findings)} findings")
    if findings:
        raise click.exceptions.Exit(1)


@gemd.command("check")
@click.argument("lab", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option("--path", "example", help="Path of an example file, relative, with forward slashes.")
@click.option("--topic", default="topic", show_default=True, help="Topic of the example file.")
@click.option("--file", "content", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its content.")
@click.option("--sidecar", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its sidecar.")
@click.option("--result", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A PDV result (JSON).")
@click.option("--header", multiple=True, metavar="KEY=VALUE", help="A Kafka header; may be repeated.")
@click.option("--units", is_flag=True, help="Also list each attribute's unit as it was read.")
def check_command(
    lab: Path | None,
    example: str | None,
    topic: str,
    content: Path | None,
    sidecar: Path | None,
    result: Path | None,
    header: tuple[str, ...],
    units: bool,
) -> None:
    """Check the mapping file LAB, and print the record that an example file would get.

    Without LAB the default mapping is used; without --path the attributes and their units are listed.
    """
    mapping = Mapping.load(lab)
    click.echo(f"{mapping.where}: {len(mapping.entries)} map entries, {len(mapping.vocabulary.attributes)} attributes")
    if units or example is None:
        for line in mapping.vocabulary.unit_report():
            base = f" = [{line.base}]" if line.base else ""
            click.echo(f"  {line.kind:<9} {line.name}: {line.read_as}{base}, {line.limits}")
    if example is None:
        return
    facts = _facts(example, topic, content)
    found = mapping.match(topic, example)
    if found is None:
        click.echo("no entry fits, and such files are skipped")
        return
    entry, groups = found
    click.echo(f"entry: {entry.id}" + "".join(f"\n  {key} = {value!r}" for key, value in groups.items()))
    for candidate in mapping.sidecar_paths(topic, example):
        click.echo(f"sidecar: {candidate}")
    extracted = mapping.extract(topic, example, content.read_bytes()) if content else {}
    for key, value in extracted.items():
        click.echo(f"extracted: {key} = {value!r}")
    made = records_for_file(
        mapping,
        facts,
        [StoreLink("s3", f"s3://bucket/{topic}/{example}")],
        _json(result) if result else None,
        sidecar.read_bytes() if sidecar else None,
        dict(_pair(item) for item in header),
        extracted=extracted,
    )
    for flag in made.flags:
        click.echo(f"flag: {flag}")
    click.echo(export.pretty(made.document))


def _facts(example: str, topic: str, content: Path | None) -> FileFacts:
    data = content.read_bytes() if content else b""
    sha512 = hashlib.sha512(data).hexdigest()
    filename = example.rpartition("/")[2]
    return FileFacts(
        file_id=hashlib.sha256("\0".join((topic, example, sha512)).encode()).hexdigest()[:32],
        topic=topic,
        path=example,
        filename=filename,
        sha512=sha512,
        size=len(data),
        mtime=content.stat().st_mtime if content else None,
        media_type=mimetypes.guess_type(filename)[0] or "",
    )


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text!r} is no header; write KEY=VALUE.")
    return key, value


def _json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not JSON: {error}.") from error
    tree = tree[0] if isinstance(tree, list) and tree else tree
    if not isinstance(tree, dict):
        raise UsageError(f"{path} holds no result table.")
    return tree


@gemd.command("import-laser-shock")
@click.argument("exported", type=click.Path(path_type=Path), required=False)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File or folder to write.")
@click.option("--server", help="URL of a FileMaker server to read instead of EXPORTED (needs python-fmrest).")
@click.option("--database", help="Its database.")
@click.option("--records", "files", help="SOURCE of file records to join with, by base name or shot id.")
@click.option("--lab", type=click.Path(dir_okay=False, path_type=Path), help="Mapping file, for its namespace.")
@click.option("--problems", type=click.Path(dir_okay=False, path_type=Path), help="Write all problems to this file.")
@FORM
@CONFIG
@BOOTSTRAP
@ENDPOINT
def import_command(
    exported: Path | None,
    out: Path,
    server: str | None,
    database: str | None,
    files: str | None,
    lab: Path | None,
    problems: Path | None,
    form: str | None,
    config: str | None,
    bootstrap: str | None,
    endpoint_url: str | None,
) -> None:
    """Make the laser-shock laboratory's records, EXPORTED as JSON or CSV, one linked GEMD model.

    What cannot be understood is listed and kept as a tag; nothing is dropped.
    """
    if (exported is None) == (server is None):
        raise UsageError("Give either EXPORTED (a file or folder) or --server with --database.")
    if server is not None and not database:
        raise UsageError("--server needs --database.")
    namespace = Mapping.load(lab).general.namespace if lab else ids.DEFAULT_NAMESPACE
    if server is not None:
        from openmsi_streams.gemd.lasershock.exported import read_server

        given = list(read_server(server, str(database)))
    else:
        assert exported is not None
        given = lasershock.read_folder(exported)
    if not given:
        raise UsageError(f"{exported or server} holds no records.")
    built = lasershock.build(given, namespace)
    together: list[dict[str, Any]] = [{"context": built.objects, "object": None}]
    if files is not None:
        shots = read.merge(_read(files, _settings(config, bootstrap, endpoint_url, files)))
        tied, count = lasershock.join(built, shots)
        together = [{"context": shots, "object": None}, {"context": tied, "object": None}]
        click.echo(f"{count} of {built.counts.get('Experiment', 0)} experiments joined with the records of their files")
    objects = read.merge(together)
    wanted = export.form_of(out, form)
    click.echo(", ".join(f"{number} {layout}" for layout, number in built.counts.items()))
    single = [json.loads(read.to_document(objects))]
    click.echo(export.write(wanted, out, single, objects))
    _report(built.problems, problems)
    breaches = [*find_breaches(objects), *out_of_bounds(objects)]
    if breaches:
        raise OpenMSIStreamsError(f"The model breaks {len(breaches)} rules of GEMD, the first: {breaches[0]}.")


def _report(problems: list[str], path: Path | None) -> None:
    if path is not None:
        path.write_text("".join(f"{line}\n" for line in problems), "utf-8")
    # A long list would push the result off the screen.
    for line in problems[:20]:
        click.echo(f"problem: {line}", err=True)
    if len(problems) > 20:
        click.echo(f"{len(problems) - 20} more problems; --problems FILE writes all", err=True)
