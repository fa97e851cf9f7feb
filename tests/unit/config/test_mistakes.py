"""Typical mistakes: `config check` finds each with one line that names key, value, cause and cure."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from openmsi_streams.cli import cli
from openmsi_streams.errors import OpenMSIStreamsError

GOOD = """
[broker]
bootstrap = "127.0.0.1:9092"
[worker]
topics = ["lab"]
[disk]
root = "ROOT"
"""
# name -> (file's text, what the line must contain: key, value, cause, cure)
MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    "a size without sense": (
        GOOD + '[chunks]\nlargest_chunk = "16 apples"\n',
        ("chunks.largest_chunk", "16 apples", "512KiB"),
    ),
    "a misspelt PDV setting in a rule": (
        GOOD + '[[pdv.rules]]\npath = "*.trc"\nmateral = "copper"\n',
        ("pdv.rules", "'materal'", "Did you mean material?"),
    ),
    "a misspelt key": ('[broker]\nbootsrap = "a:1"', ("broker.bootsrap", "Did you mean 'broker.bootstrap'")),
    "a misspelt section": ('[brokr]\nbootstrap = "a:1"', ("brokr", "Did you mean 'broker'")),
    "text where a number belongs": ('[worker]\nthreads = "many"', ("worker.threads", "'many'", "int")),
    "a number where text belongs": ("[web]\ntoken = 123456", ("web.token", "***", "quotes")),
    "a value out of range": ("[chunks]\nchunk_bytes = 10", ("chunks.chunk_bytes", "10", ">= 1024")),
    "a file that is not TOML": ("[broker\n", ("not TOML", "line 1", "Mend")),
    "a variable that is not set": ('[web]\ntoken = "$NO_SUCH_TOKEN"', ("web.token", "NO_SUCH_TOKEN", "Set")),
    "a secret's file that is missing": ('[web]\ntoken = "@/no/such"', ("web.token", "/no/such", "Check the path")),
    "a store without a name": ('[s3]\nbucket = "data"', ("s3.bucket", "[s3.main]")),
    "a store without a bucket": ('[s3.main]\nregion = "x"', ("s3.main.bucket", "needs a bucket", "Set it")),
    "half a key pair": (
        '[s3.main]\nbucket = "data"\naccess_key_id = "k"',
        ("s3.main.secret_access_key", "Half of a key pair", "both or neither"),
    ),
    "an address with a scheme": (
        '[broker]\nbootstrap = "http://kafka:9092"',
        ("broker.bootstrap", "http://kafka:9092", "no scheme", "host:port"),
    ),
    "an address without a port": ('[broker]\nbootstrap = "kafka"', ("broker.bootstrap", "'kafka'", "no port")),
    "a password that no protocol sends": (
        '[broker.options]\n"sasl.username" = "u"\n"sasl.password" = "p"',
        ("broker.options.security.protocol", "sends no password", "SASL_SSL"),
    ),
    "a missing authority file": (
        '[broker.options]\n"security.protocol" = "SSL"\n"ssl.ca.location" = "/no/ca.pem"',
        ("ssl.ca.location", "/no/ca.pem", "does not exist", "absolute path"),
    ),
    "an option that librdkafka does not know": (
        '[broker.options]\n"boostrap.server" = "a"',
        ("broker.options", "boostrap.server", "Mend or remove"),
    ),
    "a client's option that contradicts its promise": (
        '[producer.options]\n"max.in.flight" = "100"',
        ("producer.options", "max.in.flight", "Mend or remove"),
    ),
    "a token that can be guessed": ('[web]\ntoken = "lab"', ("web.token", "***", "guessed", "openssl rand")),
    "views open to all": ('[web]\nhost = "0.0.0.0"', ("web.host", "0.0.0.0", "Anyone", "web.token")),
    "a log that forgets too soon": (
        "[topic]\nretention_hours = 0.001",
        ("topic.retention_hours", "0.001", "forgets", "for days"),
    ),
    "chunks larger than workers take": (
        "[chunks]\nchunk_bytes = 2097152\nlargest_chunk = 1048576",
        ("chunks.chunk_bytes", "2097152", "1048576", "Lower it"),
    ),
    "a memory budget of two chunks": (
        "[chunks]\nchunk_bytes = 16777216\n[worker]\nmemory_budget = 33554432",
        ("worker.memory_budget", "33554432", "134217728"),
    ),
    "a topic name that Kafka refuses": ('[worker]\ntopics = ["lab data"]', ("worker.topics", "lab data", "refuses")),
    "a topic that the worker writes itself": (
        '[worker]\ntopics = ["lab", "lab.receipts"]',
        ("worker.topics", "lab.receipts", "Leave it out"),
    ),
    "a store for a topic that no one reads": (
        '[worker]\ntopics = ["lab"]\n[s3.main]\nbucket = "data"\ntopics = ["lba"]',
        ("s3.main.topics", "lba", "worker.topics"),
    ),
    "one key for all files": ('[s3.main]\nbucket = "data"\nkey = "{topic}"', ("s3.main.key", "one key", "{filename}")),
    "a field that keys do not have": (
        '[s3.main]\nbucket = "data"\nkey = "{topic}/{filname}"',
        ("s3.main.key", "{filname}", "Did you mean {filename}"),
    ),
    "a mode that is not octal": ('[disk]\nmode = "rw-r--r--"', ("disk.mode", "rw-r--r--", "0640")),
    "a regular expression with an open bracket": (
        '[worker]\nexpected_paths = ["run_(\\\\d+"]',
        ("worker.expected_paths", "not a regular expression", "Escape"),
    ),
    "a processor that is not installed": (
        '[processors]\nload = ["nolab.xrd:plot"]',
        ("processors.load", "nolab.xrd:plot", "Install"),
    ),
    "a processor without a function": (
        '[processors]\nload = ["json"]',
        ("processors.load", "'json'", "package.module:"),
    ),
    "a function that is no processor": (
        '[processors]\nload = ["json:loads"]',
        ("processors.load", "json:loads", "@processor"),
    ),
    "a mapping file that is missing": ('[gemd]\nmapping = "no.toml"', ("gemd.mapping", "no.toml", "does not exist")),
    "a node file that is missing": ('[crypto]\nnode = "no.config"', ("crypto.node", "no.config", "provision")),
    "an action that does not exist": (
        '[producer]\nwhen_delivered = "remove"',
        ("producer.when_delivered", "'remove'", "archive:DIR"),
    ),
}


def checked(folder: Path, text: str, *more: str) -> Result:
    path = folder / "openmsi-streams.toml"
    path.write_text(text.replace("ROOT", str(folder)), encoding="utf-8")
    environment: dict[str, str | None] = {name: None for name in os.environ if name.startswith("OPENMSI_STREAMS")}
    return CliRunner().invoke(cli, ["config", "check", "--config", str(path), *more], env=environment)


def test_a_good_file_has_no_errors(tmp_path: Path) -> None:
    result = checked(tmp_path, GOOD)
    assert result.exit_code == 0, result.output
    assert "0 errors, 0 warnings, 3 settings" in result.output
    assert f"({tmp_path / 'openmsi-streams.toml'})" in result.output


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_one_line_with_key_value_cause_and_cure(tmp_path: Path, name: str) -> None:
    text, wanted = MISTAKES[name]
    result = checked(tmp_path, text)
    assert result.exit_code != 0
    if isinstance(result.exception, OpenMSIStreamsError):
        lines = [f"error: {result.exception}"]
    else:
        assert isinstance(result.exception, SystemExit), result.exception
        lines = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert any(all(part in line for part in wanted) for line in lines), (wanted, lines)


def test_at_least_fifteen_mistakes_are_known() -> None:
    assert len(MISTAKES) >= 15


def test_a_configuration_file_that_is_missing_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["config", "check", "--config", str(tmp_path / "none.toml")])
    assert isinstance(result.exception, OpenMSIStreamsError)
    assert "config init" in str(result.exception)


def test_no_secret_is_ever_printed(tmp_path: Path) -> None:
    secret = "t0p-secret-of-our-lab"
    text = (
        GOOD
        + f'[web]\ntoken = "{secret}"\n[broker.options]\n"sasl.password" = "{secret}"\n"sasl.username" = "u"\n'
        + f'[s3.main]\nbucket = "data"\nsecret_access_key = "{secret}"\n'
    )
    for more in ([], ["--json"], ["--defaults"]):
        result = checked(tmp_path, text, *more)
        assert secret not in result.output and "***" in result.output
    shown = CliRunner().invoke(cli, ["config", "show", "--config", str(tmp_path / "openmsi-streams.toml")])
    assert secret not in shown.output and "***" in shown.output


def test_json_gives_values_sources_and_problems(tmp_path: Path) -> None:
    told = json.loads(checked(tmp_path, GOOD + '[web]\nhost = "0.0.0.0"\n', "--json").output)
    assert told["settings"]["worker.topics"]["value"] == ["lab"]
    assert [one["key"] for one in told["problems"]] == ["web.host"]


def test_a_producer_is_not_bothered_with_what_a_worker_lacks(tmp_path: Path) -> None:
    text = '[s3.main]\nsecret_access_key = "$NO_SUCH_VARIABLE_HERE"\n'
    assert checked(tmp_path, text, "--role", "producer").exit_code == 0
    assert checked(tmp_path, text, "--role", "worker").exit_code == 1


def test_an_option_that_one_client_knows_and_the_other_does_not_is_named(tmp_path: Path) -> None:
    text = GOOD + '[broker.options]\n"security.protocol" = "SSL"\n"ssl.cipher.suites" = "DEFAULT"\n'
    result = checked(tmp_path, text)
    assert result.exit_code == 0, result.output
    assert "warning: broker.options.ssl.cipher.suites = 'DEFAULT'" in result.output and "consumer" in result.output


def test_a_folder_that_cannot_be_made_is_no_reason_to_open_the_folder_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as root, who may write anywhere; so the answer of the system is a stand-in's."""
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    missing = tmp_path / "srv/lab"
    result = checked(tmp_path, f'[worker]\ntopics = ["lab"]\n[disk]\nroot = "{missing}"\n')
    assert f"install -d -o USER {missing}" in result.output and f"chmod {tmp_path}" not in result.output
    there = checked(tmp_path, f'[worker]\ntopics = ["lab"]\n[disk]\nroot = "{tmp_path}"\n')
    assert f"chmod {tmp_path}" in there.output
