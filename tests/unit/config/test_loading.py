"""Settings come from a file, the environment and flags, and stay what they were written as."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmsi_streams.config import load, load_with_sources
from openmsi_streams.errors import ConfigurationError


def test_flags_go_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[worker]\nid = "file"\nthreads = 2\nsweep_seconds = 9\n')
    environment = {"OPENMSI_STREAMS__WORKER__ID": "variable", "OPENMSI_STREAMS__WORKER__THREADS": "3"}
    settings, sources = load_with_sources(path, {"worker.id": "flag", "worker.data": None}, environment)
    assert (settings.worker.id, settings.worker.threads, settings.worker.sweep_seconds) == ("flag", 3, 9.0)
    assert sources["worker.id"] == "flag"
    assert sources["worker.threads"] == "OPENMSI_STREAMS__WORKER__THREADS"
    assert sources["worker.sweep_seconds"] == str(path)
    assert "worker.data" not in sources


def test_secrets_from_the_environment_stay_text_whatever_they_look_like() -> None:
    for secret in ("0012345", "1e3", "true", "[1]", "{}", "null", "a,b"):
        settings = load(
            environment={
                "OPENMSI_STREAMS__WEB__TOKEN": secret,
                "OPENMSI_STREAMS__S3__MAIN__SECRET_ACCESS_KEY": secret,
                "OPENMSI_STREAMS__BROKER__OPTIONS__SASL_PASSWORD": secret,
            }
        )
        assert settings.web.token == settings.s3["main"].secret_access_key == secret
        assert settings.broker.options == {"sasl.password": secret}


def test_lists_in_the_environment_are_json_or_have_commas() -> None:
    for text in ('["a", "b"]', "a, b"):
        assert load(environment={"OPENMSI_STREAMS__WORKER__TOPICS": text}).worker.topics == ["a", "b"]


def test_a_number_where_text_belongs_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[s3.main]\nsecret_access_key = 12345\n")
    with pytest.raises(ConfigurationError, match=r"s3\.main\.secret_access_key = \*\*\*.*quotes") as caught:
        load(path, environment={})
    assert "12345" not in str(caught.value)


def test_options_take_quoted_and_unquoted_keys_numbers_and_truth_values(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[broker.options]\n"sasl.username" = "u"\nsasl.password = "p"\nsocket.keepalive.enable = true\n')
    settings, sources = load_with_sources(path, environment={})
    assert settings.broker.options == {"sasl.username": "u", "sasl.password": "p", "socket.keepalive.enable": "true"}
    assert sources["broker.options.sasl.password"] == str(path)


def test_a_secret_can_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("0012345\n")
    settings = load(
        flags={"broker.options.sasl.password": f"@{tmp_path / 'password'}", "worker.id": "@home"}, environment={}
    )
    assert settings.broker.options["sasl.password"] == "0012345"
    assert settings.worker.id == "@home"


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"web\.token.*No such file"):
        load(flags={"web.token": f"@{tmp_path / 'none'}"}, environment={})


def test_a_value_from_a_variable_is_not_expanded_again() -> None:
    settings = load(flags={"web.token": "$TOKEN"}, environment={"TOKEN": "$OTHER"})
    assert settings.web.token == "$OTHER"


def test_a_flag_of_several_values_is_a_list() -> None:
    assert load(flags={"worker.topics": ("a", "b")}, environment={}).worker.topics == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ('"64 MiB"', 64 << 20),
        ('"2gb"', 2 * 10**9),
        ("67108864", 64 << 20),
        ('"67108864"', 64 << 20),
        ('"1.5Ti"', 3 << 39),
    ],
)
def test_bytes_may_have_a_unit(tmp_path: Path, text: str, bytes_: int) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"[worker]\nmemory_budget = {text}\n[s3.main]\nbucket = 'b'\npart_bytes = {text}\n")
    settings = load(path, environment={"OPENMSI_STREAMS__DISK__FREE_FLOOR": text.strip('"')})
    assert (settings.worker.memory_budget, settings.s3["main"].part_bytes, settings.disk.free_floor) == (bytes_,) * 3


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("disk.free_floor", "lots", "is not a number of bytes"),
        ("s3.main.part_bytes", "8 apples", "is not a number of bytes"),
        ("s3.main.part_bytes", "1 MiB", "5242880"),
        ("producer.bandwidth", "-5MB", ">= 0"),
        ("worker.threads", "2k", "Expected `int`"),
        ("worker.memory_budget", "1MiB", "Set it to at least 32MiB."),
        ("s3.main.part_bytes", "1 MiB", "Set it to at least 5MiB."),
        ("worker.expire_after", "0", "Set it to more than 0.0."),
    ],
)
def test_wrong_sizes_are_told_with_their_setting(key: str, value: str, said: str) -> None:
    variable = "OPENMSI_STREAMS__" + key.replace(".", "__").upper()
    with pytest.raises(ConfigurationError) as told:
        load(environment={variable: value})
    assert key in str(told.value)
    assert said in str(told.value)
