"""The documentation is true: pages made from the code are its, links lead somewhere, examples can be run."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from openmsi_streams.chunks.reasons import Reason
from openmsi_streams.chunks.topics import SUFFIXES
from openmsi_streams.cli import COMMANDS, cli
from openmsi_streams.config import Settings, describe, load, reference
from openmsi_streams.tables.rows import State

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))])
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def prose(text: str) -> str:
    return FENCE.sub("", text)


def fences(*languages: str) -> Iterator[Any]:
    for page in PAGES:
        for number, match in enumerate(FENCE.finditer(page.read_text(encoding="utf-8"))):
            if match[2] in languages:
                indent = match[1]
                text = "\n".join(line.removeprefix(indent) for line in match[3].splitlines())
                yield pytest.param(page, text, id=f"{page.name}-{number}")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#{1,6} (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE):
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


def test_every_command_and_option_is_documented() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    with click.Context(cli, info_name="openmsi-streams") as context:
        for name in COMMANDS:
            assert f"## openmsi-streams {name}\n" in page, f"run `make docs`: {name}"
            command = cli.get_command(context, name)
            assert command is not None
            for parameter in command.params:
                if isinstance(parameter, click.Option) and not parameter.hidden and "--help" not in parameter.opts:
                    assert parameter.opts[0] in page, f"{name} {parameter.opts[0]}"


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


def test_the_guide_leads_to_every_page() -> None:
    linked = set(LINK.findall((DOCS / "README.md").read_text(encoding="utf-8")))
    assert {path.name for path in DOCS.glob("*.md")} - {"README.md"} <= linked


# -- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


# -- examples --------------------------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each call of openmsi-streams in a block; comments and continued lines are understood."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = re.sub(r"\s+#.*$", "", line.strip().removeprefix("$ "))
        for part in line.split(" && "):
            part = part.split(" | ")[0].strip()
            if part.startswith("openmsi-streams "):
                # Windows paths: a backslash is one.
                yield shlex.split(part.replace("\\", "\\\\"))[1:]


def parsed(words: list[str]) -> None:
    """Parse a command line as click does, without running it. Raises click.UsageError."""
    context, command = click.Context(cli, info_name="openmsi-streams"), cli.get_command(click.Context(cli), words[0])
    assert command is not None, f"no command {words[0]!r}"
    rest = words[1:]
    while isinstance(command, click.Group):
        parser_context = click.Context(command, info_name=words[0], parent=context)
        assert rest, f"{words}: which of {command.list_commands(parser_context)}?"
        inner = command.get_command(parser_context, rest[0])
        assert inner is not None, f"no command {' '.join(words)!r}"
        command, context, rest = inner, parser_context, rest[1:]
    own = click.Context(command, info_name=words[0], parent=context)
    # Files of examples do not exist; only names of options and numbers of arguments are looked at.
    options, left, order = command.make_parser(own).parse_args(list(rest))
    wanted = [one for one in order if isinstance(one, click.Argument)]
    needed = sum(one.required for one in command.params if isinstance(one, click.Argument))
    given = sum(bool(options.get(one.name or "")) for one in wanted)
    assert given >= needed and not left, f"{' '.join(words)}: arguments"


@pytest.mark.parametrize(("page", "text"), fences("sh", "bash", "console", "text", "powershell", ""))
def test_commands_in_examples_exist_with_their_options(page: Path, text: str) -> None:
    if page.name == "cli.md" and "[OPTIONS]" in text:
        return
    for words in commands(text):
        if any(word in words for word in ("...", "--help", "--version")) or words[0].isupper():
            continue
        try:
            parsed(words)
        except click.ClickException as error:
            pytest.fail(f"{page.name}: openmsi-streams {' '.join(words)}: {error.format_message()}")


@pytest.mark.parametrize(("page", "text"), fences("toml"))
def test_settings_in_examples_are_settings(page: Path, text: str, tmp_path: Path) -> None:
    told = tomllib.loads(text)
    sections = set(Settings.__struct_fields__)
    if not set(told) <= sections:
        # A mapping file of GEMD, or something else in TOML.
        return
    gemd = told.get("gemd", {})
    if set(gemd) - {"enabled", "mapping"}:
        return
    path = tmp_path / "example.toml"
    path.write_text(text, encoding="utf-8")
    names = set(re.findall(r'"\$(\w+)"', text))
    text = re.sub(r'"@[^"]*"', '"a-secret-from-a-file"', text)
    path.write_text(text, encoding="utf-8")
    load(path, environment=dict.fromkeys(names, "value"))


@pytest.mark.parametrize(("page", "text"), fences("python"))
def test_python_in_examples_compiles_and_the_processors_page_runs(
    page: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = compile(text, page.name, "exec")
    if page.name == "processors.md":
        monkeypatch.chdir(tmp_path)
        namespace: dict[str, Any] = {"__name__": "mylab.xrd"}
        exec(code, namespace)
        if "lines" in namespace:
            from openmsi_streams.processors.testing import try_processor

            tried = try_processor(namespace["lines"], b"a\nb\n", name="a.csv", topic="xrd", folder=tmp_path)
            assert tried.json == {"lines": 2} and "a.csv.summary.txt" in tried.files


def test_nothing_of_the_workplace_is_in_a_page() -> None:
    for page in PAGES:
        assert "/tmp/" not in page.read_text(encoding="utf-8"), page.name
