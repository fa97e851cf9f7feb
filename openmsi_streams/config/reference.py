"""Writes the reference pages and the JSON schema from the code: ``python -m openmsi_streams.config.reference``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from openmsi_streams.config import describe

START, END = (
    "<!-- made from the code by `make docs`; change the code, not this part -->",
    "<!-- end of what is made -->",
)


def settings_table() -> str:
    """Return all settings as Markdown, a table for each section."""
    lines: list[str] = []
    for section in describe.sections():
        lines += [f"## [{section.name}]", "", _sentence(section.meaning), ""]
        lines += ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
        for one in section.settings:
            default = describe.toml(one.default)
            lines.append(
                f"| `{one.name}` | {_cell(one.kind)} | `{_cell(default)}` | {_cell(one.meaning.replace('``', '`'))} |"
            )
        lines.append("")
    return "\n".join(lines)


def _sentence(text: str) -> str:
    text = text.replace("``", "`")
    return text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def cli_table() -> str:
    """Return every command with its arguments and options as Markdown."""
    from openmsi_streams.cli import COMMANDS, cli

    lines: list[str] = []
    with click.Context(cli, info_name="openmsi-streams") as context:
        for name in COMMANDS:
            try:
                command = cli.get_command(context, name)
            except ImportError:
                # Its extra is not installed here; the test of the page says which is missing.
                continue
            assert command is not None
            lines += _command(command, context, f"openmsi-streams {name}", 2)
    return "\n".join(lines)


def _command(command: click.Command, parent: click.Context, path: str, level: int) -> list[str]:
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent)
    lines = [f"{'#' * level} {path}", ""]
    if command.help:
        lines += [_help(command.help), ""]
    usage = " ".join(command.collect_usage_pieces(context))
    lines += ["```text", f"{path} {usage}".rstrip(), "```", ""]
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts:
            continue
        rows.append(f"| `{_cell(record[0])}` | {_cell(' '.join(record[1].split()))} |")
    if rows:
        lines += ["| option | meaning |", "| --- | --- |", *rows, ""]
    if command.epilog:
        # Tables of click's own making, such as exit codes.
        lines += ["```text", command.epilog.replace("\b", "").strip(), "```", ""]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                lines += _command(inner, context, f"{path} {name}", level + 1)
    return lines


def _help(text: str) -> str:
    """Return a help text as paragraphs; click's marks for unwrapped text go."""
    paragraphs = [part.replace("\b", "").strip("\n") for part in text.replace("\f", "").split("\n\n")]
    return "\n\n".join(
        " ".join(line.strip() for line in part.splitlines()).strip() for part in paragraphs if part.strip()
    )


def topics_table() -> str:
    """Return the topics of a chunk topic ``lab`` as the plan makes them."""
    from openmsi_streams.config import topics
    from openmsi_streams.config.load import load

    settings = load(flags={"worker.topics": ["lab"], "worker.id": "ID"}, environment={})
    lines = ["| topic | partitions | configuration | holds |", "| --- | --- | --- | --- |"]
    for one in topics.plan(settings):
        share = f"those of `{one.like}`" if one.like else "`topic.partitions`" if one.partitions > 1 else "1"
        config = "<br>".join(f"`{key}={value}`" for key, value in one.config.items())
        lines.append(f"| `{one.name}` | {share} | {config} | {_cell(one.purpose)} |")
    return "\n".join([*lines, ""])


def states_table() -> str:
    """Return states with what may follow, and reasons of quarantine with their cures."""
    from openmsi_streams.chunks.reasons import CURES, Reason
    from openmsi_streams.tables.rows import NEXT, State

    lines = ["### States", "", "| state | may become |", "| --- | --- |"]
    for state in State:
        after = ", ".join(f"`{one}`" for one in State if one in NEXT[state]) or "nothing; it is the end"
        lines.append(f"| `{state}` | {after} |")
    lines += ["", "### Reasons of quarantine", "", "| reason | cause and cure |", "| --- | --- |"]
    lines += [f"| `{reason}` | {_cell(CURES[reason])} |" for reason in Reason]
    return "\n".join([*lines, ""])


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_table,
    "cli.md": cli_table,
    "topics.md": topics_table,
    "states.md": states_table,
}


def made(text: str, part: str) -> str:
    """Return a page with the part between the marks replaced."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{part}\n{END}{after}" if rest else f"{before}\n{START}\n\n{part}\n{END}\n"


def write(docs: Path) -> list[Path]:
    """Write all pages whose text is not the code's any more, and the schema; return those that changed."""
    files = {docs / name: made((docs / name).read_text(encoding="utf-8"), part()) for name, part in PAGES.items()}
    files[Path(describe.__file__).with_name(describe.SCHEMA_FILE)] = describe.schema_text()
    changed = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(files[path], encoding="utf-8")
    return changed


if __name__ == "__main__":
    for path in write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs")):
        print(f"wrote {path}")
