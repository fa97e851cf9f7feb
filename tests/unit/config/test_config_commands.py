"""`config init`, `convert`, `schema` and `show`, and the files that are made from the settings' code."""

from __future__ import annotations

import json
import stat
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

import openmsi_streams.config
from openmsi_streams.cli import cli
from openmsi_streams.config import Settings, describe, load
from openmsi_streams.errors import ConfigurationError


def run(*words: str) -> str:
    result = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_setting_says_what_it_means() -> None:
    assert [setting.dotted for setting in describe.every() if not setting.meaning] == []


def test_init_writes_a_file_that_changes_nothing_and_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "openmsi-streams.toml"
    run("config", "init", str(path))
    assert load(path, environment={}) == Settings()
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_line_of_the_template_is_right_once_it_is_active(tmp_path: Path) -> None:
    lines = []
    for line in describe.template().splitlines():
        active = line.removeprefix("# ")
        name = active.partition(" = ")[0]
        if active.startswith("[") or (name.isidentifier() and " = " in active):
            lines.append(active)
    path = tmp_path / "all.toml"
    path.write_text("\n".join(lines))
    assert len(tomllib.loads(path.read_text())["worker"]) > 5
    settings = load(path, environment={})
    assert msgspec.structs.replace(settings, s3={}) == Settings()
    assert list(settings.s3) == ["main"]


def test_init_does_not_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("mine")
    with pytest.raises(ConfigurationError, match="--force"):
        run("config", "init", str(path))
    assert path.read_text() == "mine"


def test_the_shipped_schema_is_that_of_the_code() -> None:
    shipped = Path(openmsi_streams.config.__file__).with_name(describe.SCHEMA_FILE)
    assert shipped.read_text(encoding="utf-8") == describe.schema_text(), "run `make docs`"
    assert json.loads(run("config", "schema"))["title"] == "openmsi-streams.toml"


def test_convert_writes_settings_that_mean_the_same_and_keeps_variables(tmp_path: Path) -> None:
    source = tmp_path / "lab.config"
    source.write_text(
        "[broker]\nbootstrap.servers = $SERVERS\nsasl.mechanism = PLAIN\nsecurity.protocol = SASL_SSL\n"
        "sasl.username = 007\nsasl.password = $PASSWORD\n"
        '[producer]\nlinger.ms = 100\nacks = 1\n[s3]\naccess_key_id = a"b\\c\nsecret_key_id = 0012\n'
    )
    target = tmp_path / "new.toml"
    run("config", "convert", str(source), str(target))
    text = target.read_text()
    assert "$PASSWORD" in text and "# Not taken over: [producer] acks" in text
    environment = {"SERVERS": "a:1", "PASSWORD": "1e3"}
    assert load(target, environment=environment) == load(source, environment=environment)


def test_show_prints_toml_of_all_or_one_setting(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[broker.options]\n"sasl.username" = "u"\n[worker]\ntopics = ["a"]\n')
    assert tomllib.loads(run("config", "show", "--config", str(path)))["worker"]["topics"] == ["a"]
    assert run("config", "show", "--config", str(path), "broker.options.sasl.username").strip() == "u"
    assert run("config", "show", "--config", str(path), "worker.topics").strip() == '["a"]'


def test_topics_plan_lists_every_topic_without_a_broker() -> None:
    told = json.loads(run("topics", "plan", "lab", "--partitions", "4", "--json"))
    assert {"lab", "lab.receipts", "lab.home"} <= {one["name"] for one in told}
    assert run("topics", "plan", "lab", "--shell").startswith("kafka-topics.sh --bootstrap-server")
