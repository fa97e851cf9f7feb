"""Every fenced block of the documentation is tested; its language says how. tests/broker/docs runs the commands."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest

from openmsi_streams.cli import cli
from openmsi_streams.config import Settings, checks, load
from openmsi_streams.config.settings import WebSettings
from openmsi_streams.gemd.mapping import Mapping
from openmsi_streams.pdv.settings import settings_from
from openmsi_streams.web import routes
from tests.support.doc_blocks import (
    LANGUAGES,
    NOT_HERE,
    PAGES,
    ROOT,
    Block,
    blocks,
    cannot_run,
    commands,
    without_blocks,
)

yaml = pytest.importorskip("yaml")

# Words that begin a command; a block of the language `text` has no line that begins with one.
COMMANDS = (
    "openmsi-streams|pip|py|python3?|make|cp|mkdir|export|setx|set|curl|docker|git|kubectl|helm|sudo|journalctl|\\.|cd"
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def each(*languages: str) -> Iterator[Any]:
    for block in blocks(*languages):
        if not block.made:
            yield pytest.param(block, id=block.name)


def test_every_block_has_a_language_with_a_test_and_people_are_told_which() -> None:
    for block in blocks():
        assert block.language in LANGUAGES, f"{block.name}: give it one of {', '.join(LANGUAGES)}"
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [one for one in LANGUAGES if f"`{one}`" not in guide] == []


def test_every_fence_is_closed() -> None:
    for page in PAGES:
        assert "```" not in without_blocks(page.read_text(encoding="utf-8")), page


# -- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", each("text"))
def test_a_block_of_text_is_no_hiding_place_for_commands(block: Block) -> None:
    for command in commands(block.text):
        if re.match(rf"\$? ?({COMMANDS})\s", command):
            # A synopsis: it has words to be replaced, and the options that it names exist.
            assert re.search(r"\[|\.\.\.", command), f"{block.name}: `{command}` can be run: make it a block of sh"
            named = {word.strip("[]|") for word in command.split() if word.strip("[]|").startswith("--")}
            assert named <= options_of(command.split()[1:]), f"{block.name}: {named}"


def find(words: list[str]) -> tuple[click.Command, click.Context, list[str]]:
    """Return the command that words name, its context, and the words that are left."""
    context: click.Context = click.Context(cli, info_name="openmsi-streams")
    command: click.Command = cli
    while isinstance(command, click.Group):
        assert words, f"which of {command.list_commands(context)}?"
        inner = command.get_command(context, words[0])
        assert inner is not None, f"no command {words[0]!r} in {context.command_path}"
        command, context, words = inner, click.Context(inner, info_name=words[0], parent=context), words[1:]
    return command, context, words


def options_of(words: list[str]) -> set[str]:
    command, _, _ = find([word for word in words if word.isalnum() and word.islower()][:2])
    return {option for parameter in command.params for option in parameter.opts}


def parsed(words: list[str]) -> None:
    """Parse a command line as click does, without running it. Raises click.UsageError."""
    command, context, rest = find(words)
    # Files of examples do not exist; only names of options and numbers of arguments are looked at.
    options, left, order = command.make_parser(context).parse_args(list(rest))
    wanted = [one for one in order if isinstance(one, click.Argument)]
    needed = sum(one.required for one in command.params if isinstance(one, click.Argument))
    given = sum(bool(options.get(one.name or "")) for one in wanted)
    assert given >= needed and not left, f"{' '.join(words)}: arguments"


@pytest.mark.parametrize("block", each("sh", "bat"))
def test_commands_exist_with_their_options(block: Block) -> None:
    assert commands(block.text), f"{block.name} holds no command"
    for command in commands(block.text):
        if command.startswith("openmsi-streams "):
            try:
                # Windows paths: a backslash is one.
                parsed(shlex.split(command.replace("\\", "\\\\"))[1:])
            except click.ClickException as error:
                pytest.fail(f"{block.name}: {command}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_within_sentences_and_tables_exist_with_their_options(page: Path) -> None:
    for code in re.findall(r"`openmsi-streams ([^`]+)`", without_blocks(page.read_text(encoding="utf-8"))):
        # In a list of them, "or" and the like end the command; `service install`, `start`, ... name the verb alone.
        words = shlex.split(code.replace("\\", "\\\\"))
        if words[0].startswith("-"):
            continue
        context: click.Context = click.Context(cli, info_name="openmsi-streams")
        command: click.Command = cli
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            inner = command.get_command(context, words[0])
            assert inner is not None, f"{page.name}: `openmsi-streams {code}`"
            command, context, words = inner, click.Context(inner, info_name=words[0], parent=context), words[1:]
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        named = {word.partition("=")[0] for word in words[: words.index("--") if "--" in words else None]}
        assert {one for one in named if one.startswith("--")} <= known, f"{page.name}: `openmsi-streams {code}`"


def not_run() -> dict[str, str]:
    """Return the commands that cannot run here, with where they are."""
    found = {}
    for block in blocks("sh", "bat"):
        found |= {command: block.name for command in commands(block.text) if cannot_run(command)}
    return found


def test_no_command_is_excused_without_need() -> None:
    every = [command for block in blocks("sh", "bat") for command in commands(block.text)]
    for pattern in NOT_HERE:
        assert any(re.fullmatch(pattern, command) for command in every), f"no page has {pattern} any more"


def test_what_cannot_run_here_is_checked_as_far_as_it_can_be() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    scripts = set(re.findall(r'^    "(\w+)": \(', (ROOT / "bench/run.py").read_text(encoding="utf-8"), re.MULTILINE))
    for command, where in not_run().items():
        words = shlex.split(command)
        if words[0] == "make":
            assert set(words[1:]) <= targets, f"{where}: {command}"
        elif "pip" in command:
            name, _, extras = words[-1].rstrip("]").partition("[")
            assert words[-2] == "install" and name == PROJECT["name"], f"{where}: {command}"
            assert set(extras.split(",")) - {""} <= set(PROJECT["optional-dependencies"]), f"{where}: {command}"
        elif "bench/run.py" in command:
            source = (ROOT / "bench/run.py").read_text(encoding="utf-8")
            assert all(f'"{word}"' in source for word in words if word.startswith("--")), f"{where}: {command}"
            named = words[words.index("--only") + 1].split(",") if "--only" in words else []
            assert set(named) <= scripts and scripts, f"{where}: {command}"
        elif words[0] == "docker":
            assert (ROOT / words[words.index("-f") + 1]).is_file(), f"{where}: {command}"
        elif words[0] == "journalctl":
            installed = {one.split()[3] for one in every_service()}
            assert words[2].removeprefix("openmsi-streams-") in installed, f"{where}: {command}"
        elif words[0] == "python3":
            assert words[1:] == ["-m", "venv", "/opt/openmsi-streams"]
        else:
            parsed(words[1:])


def every_service() -> Iterator[str]:
    for block in blocks("sh"):
        yield from (one for one in commands(block.text) if one.startswith("openmsi-streams service install"))


def test_the_address_of_a_package_index_is_in_no_page() -> None:
    for page in PAGES:
        assert "--index-url" not in page.read_text(encoding="utf-8"), page


# -- settings and data -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", each("toml"))
def test_toml_is_what_its_tables_say(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tomllib.loads(block.text)
    path = tmp_path / "example.toml"
    path.write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    if "project" in told:
        for group, points in told["project"]["entry-points"].items():
            assert group == "openmsi_streams.processors", block.name
            assert all(EntryPoint(name, value, group).attr for name, value in points.items()), block.name
    elif not any(isinstance(value, dict) for value in told.values()):
        # Settings of one shot; each counts.
        assert told and all(settings_from({key: told[key]}) != settings_from(None) for key in told), block.name
    elif set(told) <= set(Settings.__struct_fields__) and not set(told.get("gemd", {})) - {"enabled", "mapping"}:
        settings_without_mistakes(block, path)
    else:
        Mapping.load(path)


def settings_without_mistakes(block: Block, path: Path) -> None:
    """Load settings and look for mistakes, with the folders and secrets of the example in place."""
    folder = path.parent
    (folder / "lab.toml").write_bytes((ROOT / "docs/examples/lab.toml").read_bytes())
    # A file of certificates is read as soon as it is named; tests/broker/config has one.
    text = re.sub(r'^"ssl\.ca\.location" = .*$', "", block.text, flags=re.MULTILINE)
    for place in ("/var/lib/openmsi-streams", "/data/lab"):
        text = text.replace(f'"{place}"', f'"{folder}/state"')
    path.write_text(text, encoding="utf-8")
    variables = dict.fromkeys(re.findall(r'"\$(\w+)"', text), "value")
    settings = load(path, environment=variables)
    # A part of a file need not hold what another part does, and this machine lacks the example's users and files.
    shown = {f"{table}.{name}" for table, inner in tomllib.loads(text).items() for name in inner}
    wrong = [one for one in checks.problems(settings) if one.severity == "error"]
    missing = {"disk.owner", "crypto.node", "s3.main.secret_access_key"}
    said = [one.line() for one in wrong if one.key not in missing and any(one.key.startswith(key) for key in shown)]
    assert said == [], block.name


@pytest.mark.parametrize("block", each("yaml"))
def test_yaml_scrapes_the_address_that_workers_have(block: Block) -> None:
    told = yaml.safe_load(block.text)
    if "receivers" in told:
        for pipeline in told["service"]["pipelines"].values():
            for kind in ("receivers", "exporters"):
                assert set(pipeline[kind]) <= set(told[kind]), block.name
        told = told["receivers"]["prometheus"]["config"]
    for job in told["scrape_configs"]:
        # Prometheus asks for /metrics if nothing else is said.
        assert set(job) <= {"job_name", "authorization", "static_configs"}, block.name
        # The alert that a worker is down goes by the job.
        alerts = (ROOT / "deploy/prometheus/alerts.yaml").read_text(encoding="utf-8")
        assert f'up{{job="{job["job_name"]}"}}' in alerts, block.name
        for target in job["static_configs"][0]["targets"]:
            assert target.endswith(f":{WebSettings().port}"), block.name


def test_json_of_an_error_is_what_the_description_of_the_api_says() -> None:
    (block,) = blocks("json", page=ROOT / "docs/api.md")
    shown = json.loads(block.text)
    assert set(shown) == set(routes.SCHEMAS["Problem"]["properties"])
    for name, schema in routes.SCHEMAS["Problem"]["properties"].items():
        kinds = {"string": str, "integer": int, "boolean": bool}
        assert isinstance(shown[name], kinds[schema.get("type", "boolean")]), name


def test_json_without_a_test_of_its_own_does_not_slip_in() -> None:
    """docs/demo.md's is held against a real result in tests/broker/demo."""
    assert {block.page.name for block in blocks("json")} == {"api.md", "demo.md"}


@pytest.mark.parametrize("block", each("python"))
def test_python_compiles_and_processors_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others need servers or a store: tests/broker/docs runs them all."""
    code = compile(block.text, block.name, "exec")
    if block.page.name == "processors.md":
        monkeypatch.chdir(tmp_path)
        namespace: dict[str, Any] = {"__name__": "mylab.xrd"}
        exec(code, namespace)
        if "lines" in namespace:
            from openmsi_streams.processors.testing import try_processor

            tried = try_processor(namespace["lines"], b"a\nb\n", name="a.csv", topic="xrd", folder=tmp_path)
            assert tried.json == {"lines": 2} and "a.csv.summary.txt" in tried.files
