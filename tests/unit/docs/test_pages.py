"""The documentation is true and whole: pages made from the code are its, nothing is left out, links lead somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest

from openmsi_streams.chunks.reasons import Reason
from openmsi_streams.chunks.topics import SUFFIXES
from openmsi_streams.cli import COMMANDS, cli
from openmsi_streams.config import describe, reference
from openmsi_streams.errors import OpenMSIStreamsError
from openmsi_streams.producers.registry import STATES
from openmsi_streams.tables.rows import State
from openmsi_streams.web.shots import CLASSES
from tests.support.doc_blocks import PAGES, ROOT, without_blocks

DOCS = ROOT / "docs"
PACKAGE = ROOT / "openmsi_streams"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#{1,6} (.+)$", without_blocks(page.read_text(encoding="utf-8")), re.MULTILINE):
        text = re.sub(r"[`*]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).lower()
        found.add(re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-"))
    return found


# -- made from the code ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.PAGES)
def test_pages_made_from_the_code_are_up_to_date(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    assert text == reference.made(text, reference.PAGES[name]()), f"docs/{name} is old: run `make docs`"


def test_every_setting_is_documented() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    for section in describe.sections():
        part = page.partition(f"## [{section.name}]")[2].partition("\n## ")[0]
        missing = [one.name for one in section.settings if f"| `{one.name}` |" not in part]
        assert part and not missing, (section.name, missing)


def every_command(command: click.Command, path: str, parent: click.Context) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and all below it, each with its path."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path, parent=parent)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from every_command(inner, f"{path} {name}", context)


def all_commands() -> Iterator[tuple[str, click.Command]]:
    with click.Context(cli, info_name="openmsi-streams") as context:
        for name in COMMANDS:
            command = cli.get_command(context, name)
            assert command is not None
            yield from every_command(command, f"openmsi-streams {name}", context)


def test_every_command_and_every_spelling_of_an_option_is_documented_with_a_meaning() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    for path, command in all_commands():
        _, found, rest = page.partition(f"# {path}\n")
        assert found and command.help, f"{path}: give it a docstring, then run `make docs`"
        assert (command.epilog or "").replace("\b", "").strip() in rest, path
        part = re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden and "--help" not in parameter.opts:
                assert parameter.help, f"{path} {parameter.opts[0]} has no help"
                for spelling in (*parameter.opts, *parameter.secondary_opts):
                    assert re.search(rf"{re.escape(spelling)}(?![\w-])", part), f"{path} {spelling}"


def test_hidden_options_are_those_of_openmsistream_and_the_root_of_services() -> None:
    """`hidden=True` is no way around documentation."""
    hidden = {
        (path, option)
        for path, command in all_commands()
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.hidden
        for option in parameter.opts
    }
    moving = (DOCS / "migration.md").read_text(encoding="utf-8")
    own = {(path, option) for path, option in hidden if f"`{option}`" not in moving}
    assert all(path.startswith("openmsi-streams service ") and option == "--root" for path, option in own), own
    assert not [path for path, command in all_commands() if command.hidden]


def test_every_setting_says_what_it_means() -> None:
    assert [one.dotted for one in describe.every() if not one.meaning] == []
    assert [one.name for one in describe.sections() if not one.meaning] == []


def test_every_variable_of_the_environment_is_documented() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    for path in PACKAGE.rglob("*.py"):
        for name in re.findall(r"\bOPENMSI_[A-Z]+(?:_[A-Z]+)*\b", path.read_text(encoding="utf-8")):
            assert re.search(rf"\b{name}\b", pages), f"{path.name}: {name}"


def every_error(kind: type[OpenMSIStreamsError]) -> Iterator[type[OpenMSIStreamsError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from every_error(inner)


def constants(path: Path, calls: set[str]) -> set[int]:
    """Return the whole numbers that a module gives to calls of these names, directly or in a choice."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in calls:
            for given in (*node.args, *(one.value for one in node.keywords if one.arg in ("status", "code"))):
                choices = (given.body, given.orelse) if isinstance(given, ast.IfExp) else (given,)
                found |= {one.value for one in choices if isinstance(one, ast.Constant) and type(one.value) is int}
    return found


def test_every_exit_code_is_documented() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8").partition("Start here")[0]
    found = {kind.exit_code for kind in every_error(OpenMSIStreamsError)} | {click.UsageError.exit_code}
    for path in PACKAGE.rglob("*.py"):
        found |= constants(path, {"exit", "SystemExit", "Exit"})
    # `status` returns its own; its help lists them.
    listed = dict(all_commands())["openmsi-streams status"].epilog or ""
    found |= {int(code) for code in re.findall(r"^ *(\d)  ", listed, re.MULTILINE)}
    assert {0, 1, 2, 3, 4, 5, 130} <= found <= {int(code) for code in re.findall(r"\b\d+\b", page)}, found


def test_every_status_of_the_api_is_documented() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8").partition("## Addresses")[0]
    found = set()
    for path in (PACKAGE / "web").glob("*.py"):
        found |= {code for code in constants(path, {"Problem", "json_response"}) if 400 <= code < 600}
    told = {int(code) for code in re.findall(r"\b([45]\d\d)(?=:)", page)}
    assert {400, 401, 404, 409, 503} <= found <= told, found - told


def test_words_that_programs_read_are_documented() -> None:
    """States of the producer, conditions of its state file, results of `verify`, classes of shots."""
    from openmsi_streams.storage.compare import Status

    pages = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
    assert [one for one in STATES if f"| `{one}` |" not in pages["instrument-pc.md"]] == []
    source = (PACKAGE / "producers/report.py").read_text(encoding="utf-8")
    conditions = set(re.findall(r'condition = "([^"]+)"', source))
    assert {"ok", "broker away"} <= conditions
    assert [one for one in conditions if f"`{one}`" not in pages["instrument-pc.md"]] == []
    assert [one for one in get_args(Status) if f"| {one} |" not in pages["s3.md"]] == []
    assert [one for one in CLASSES if f"`{one}`" not in pages["api.md"]] == []


def test_every_suffix_state_and_reason_is_documented() -> None:
    topics, states = ((DOCS / name).read_text(encoding="utf-8") for name in ("topics.md", "states.md"))
    assert [one for one in SUFFIXES if f"`lab.{one}`" not in topics] == []
    assert [one for one in (*State, *Reason) if f"| `{one}` |" not in states] == []


def test_every_metric_is_documented() -> None:
    from openmsi_streams.worker.metrics import REGISTRY

    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert [family.name for family in REGISTRY.collect() if family.name not in page] == []


def test_every_file_that_the_site_names_is_there_and_every_page_is_in_the_site() -> None:
    named = set(re.findall(r"([\w-]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert {path.name for path in DOCS.glob("*.md")} == named


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "index.html").exists() and (tmp_path / "troubleshooting" / "index.html").exists()


def test_the_guide_leads_to_every_page() -> None:
    linked = set(LINK.findall((DOCS / "README.md").read_text(encoding="utf-8")))
    assert {path.name for path in DOCS.glob("*.md")} - {"README.md"} <= linked


# -- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(without_blocks(page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_nothing_of_the_workplace_is_in_a_page() -> None:
    for page in PAGES:
        assert "/tmp/" not in page.read_text(encoding="utf-8"), page.name
