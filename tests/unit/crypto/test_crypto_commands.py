"""`openmsi-streams crypto ...` from init-authority to check, without questions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("kafkacrypto", reason="the crypto extra is not installed")

from openmsi_streams.cli import cli
from openmsi_streams.crypto import files
from openmsi_streams.errors import CryptoError


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["crypto", *map(str, arguments)])


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    assert run("init-authority", tmp_path / "authority").exit_code == 0
    return tmp_path


def provision(lab: Path, node: str, role: str, *more: str) -> Result:
    return run(
        *("provision", node, "--role", role, "--topics", "lab.files,other.files", "--folder", lab / node),
        *("--authority", lab / "authority", *more),
    )


def test_a_node_is_made_shown_checked_and_renewed(lab: Path) -> None:
    made = provision(lab, "node1", "both", "--broker", "broker.lab:9092")
    assert made.exit_code == 0, made.output
    config = lab / "node1" / "node1.config"
    assert f"crypto.node = {str(config)!r}" in made.output
    assert files.NodeFiles(config).values("kafka")["bootstrap_servers"] == "broker.lab:9092"
    shown = json.loads(run("show", config, "--json").output)
    assert shown["role"] == "both" and shown["topics"] == ["lab", "other"] and 364 < shown["days_left"] <= 365
    checked = run("check", config)
    assert checked.exit_code == 0 and "all right" in checked.output and "libsodium" in checked.output
    renewed = run("renew", config, "--authority", lab / "authority", "--days", "700")
    assert renewed.exit_code == 0, renewed.output
    assert json.loads(run("show", config, "--json").output)["days_left"] > 699


def test_check_fails_for_a_node_that_expires(lab: Path) -> None:
    assert provision(lab, "node1", "consumer", "--days", "3").exit_code == 0
    checked = run("check", lab / "node1" / "node1.config")
    assert "problem: The certificate expires in 2 days" in checked.output
    assert isinstance(checked.exception, CryptoError)


def test_the_vault_lists_producers_and_takes_those_made_before_it(lab: Path) -> None:
    provision(lab, "maker", "producer")
    added = run("vault", "add", lab / "maker" / "maker.config", "--authority", lab / "authority")
    assert added.exit_code == 0, added.output
    listed = run("vault", "list", "--authority", lab / "authority").output.splitlines()
    assert len(listed) == 2 and all(line.startswith("maker ") and "lab, other" in line for line in listed)


def test_password_authorities_take_a_password_file(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("first words\nsecond words\n")
    assert run("init-authority", tmp_path / "authority", "--password-file", words).exit_code == 0
    refused = provision(tmp_path, "node1", "both")
    assert isinstance(refused.exception, CryptoError) and "--password-file" in str(refused.exception)
    assert provision(tmp_path, "node1", "both", "--password-file", str(words)).exit_code == 0


def test_recover_says_where_to_is_missing(lab: Path) -> None:
    done = run("recover", "--topics", "lab.files", "--vault-key", lab / "authority" / "vault.key")
    assert done.exit_code == 2 and "--into" in done.output


def test_errors_are_one_line_and_exit_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openmsi_streams", "crypto", "check", str(tmp_path / "none.config")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: The node file") and done.stderr.count("\n") == 1


LAZY = """
import sys
import openmsi_streams.crypto, openmsi_streams.crypto.commands, openmsi_streams.crypto.node
import openmsi_streams.crypto.messages, openmsi_streams.crypto.parking, openmsi_streams.crypto.files
loaded = {"kafkacrypto", "pysodium", "nacl", "faust", "confluent_kafka"} & set(sys.modules)
assert not loaded, loaded
"""


def test_nothing_of_kafkacrypto_is_loaded_before_a_node_is_opened() -> None:
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
