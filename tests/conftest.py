"""Fixtures that all tests share, and the rule that no test leaves a process behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from openmsi_streams.embedded import EmbeddedBroker, EmbeddedS3
from openmsi_streams.embedded.child import running_children
from tests.support.brokers import KafkaCluster, a_broker
from tests.support.proxy import ProxiedBroker
from tests.support.waiting import wait_until

# The same examples each time, and no time limit for one of them: a busy machine must not make a rule seem broken.
# `HYPOTHESIS_PROFILE=search` looks for new examples.
_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=_QUIET)
settings.register_profile("search", deadline=None, max_examples=1000, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting in the environment of the person who runs the tests must not change what they test."""
    for name in list(os.environ):
        if name.upper().startswith("OPENMSI_STREAMS"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker | KafkaCluster]:
    """A broker for the tests of one file (embedded, or Apache Kafka); tests use topic names of their own."""
    with a_broker() as server:
        yield server


@pytest.fixture
def own_broker() -> Iterator[EmbeddedBroker | KafkaCluster]:
    """A broker for one test."""
    with a_broker() as server:
        yield server


@pytest.fixture
def proxied_broker() -> Iterator[ProxiedBroker]:
    """A broker for one test behind a proxy that can cut, delay and slow its connections."""
    with ProxiedBroker() as proxied:
        yield proxied


@pytest.fixture(scope="module")
def s3() -> Iterator[EmbeddedS3]:
    """An embedded S3 server for the tests of one file; tests make buckets of their own."""
    with EmbeddedS3() as server:
        yield server


def _children() -> dict[int, str]:
    """Return the living child processes of this one with their command lines (Linux; elsewhere none are seen)."""
    found: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The name in brackets may hold anything; the fields after the last bracket are state and parent.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (OSError, ValueError):
            continue
        if int(parent) == os.getpid() and state not in "ZX":
            found[int(entry.name)] = command
    return found


@pytest.fixture(scope="session", autouse=True)
def _no_child_is_left() -> Iterator[None]:
    """At the end of the session no process that a test started may live."""
    before = set(_children())
    yield
    left = [child.name for child in running_children()]
    for child in running_children():
        child.end()
    assert not left, f"tests left programs running: {left}"

    def ours() -> dict[int, str]:
        # Python's own helper processes end with the session.
        helpers = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
        return {
            pid: command
            for pid, command in _children().items()
            if pid not in before and not any(helper in command for helper in helpers)
        }

    wait_until(lambda: not ours(), 20.0, "no child process of the tests is left", ours)
