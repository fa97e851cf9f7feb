"""The embedded servers: they answer when they say so, keep their port, and never outlive their parent."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from openmsi_streams.embedded import Child, EmbeddedBroker, EmbeddedS3, free_port
from openmsi_streams.errors import ServiceError, UsageError
from tests.support.kafka import make_topics, produce, read_all
from tests.support.programs import run_cli, spawn, spawn_cli
from tests.support.proxy import ProxiedBroker
from tests.support.waiting import wait_until

pytestmark = pytest.mark.broker

# Each of these waits is milliseconds long; a machine at ten times its load must not fail them.
PATIENCE = 90.0
PARENT = """
import sys, time
from openmsi_streams.embedded import EmbeddedBroker, EmbeddedS3
with EmbeddedBroker() as broker, EmbeddedS3() as s3:
    print("pids", broker.child.pid, s3.child.pid, s3.data, "there", flush=True)
    time.sleep(600)
"""


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False
    return state in "ZX"


def test_a_message_goes_through_the_broker_and_comes_back(broker: EmbeddedBroker) -> None:
    names = make_topics(broker.bootstrap, "round-trip", 2)
    assert "round-trip.gemd" in names and "round-trip.receipts" in names
    big = os.urandom(4 << 20)
    produce(broker.bootstrap, "round-trip", [(b"a", b"1"), (b"b", b"2"), (b"c", big)])
    assert sorted((m.key(), m.value()) for m in read_all(broker.bootstrap, "round-trip")) == [
        (b"a", b"1"),
        (b"b", b"2"),
        (b"c", big),
    ]
    assert read_all(broker.bootstrap, "no-such-topic") == []


def client(s3: EmbeddedS3, secret: str | None = None):
    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        aws_access_key_id=s3.access_key,
        region_name="us-east-1",
        aws_secret_access_key=secret or s3.secret_key,
        config=Config(s3={"addressing_style": "path"}),
    )


def test_an_object_goes_to_s3_and_comes_back_and_signatures_are_checked(s3: EmbeddedS3) -> None:
    assert s3.make_bucket("lab") == s3.make_bucket("lab") == "lab"
    client(s3).put_object(Bucket="lab", Key="run 07/échantillon.csv", Body=b"1,2", Metadata={"sha512": "ab"})
    got = client(s3).get_object(Bucket="lab", Key="run 07/échantillon.csv")
    assert got["Body"].read() == b"1,2" and got["Metadata"] == {"sha512": "ab"}
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client(s3, "wrong").list_objects_v2(Bucket="lab")
    with pytest.raises(UsageError, match="bucket's name"):
        s3.make_bucket("No Bucket")


@pytest.mark.parametrize("kind", [EmbeddedBroker, EmbeddedS3])
def test_a_port_in_use_is_said_before_anything_starts(kind: type[EmbeddedBroker] | type[EmbeddedS3]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"port {port} .*in use.*--port"):
            kind(port=port).start()


def test_two_brokers_at_once_do_not_see_each_other(own_broker: EmbeddedBroker) -> None:
    with EmbeddedBroker() as second:
        make_topics(second.bootstrap, "only-here", 1, also_internal=False)
        produce(second.bootstrap, "only-here", [(b"k", b"v")])
        assert read_all(own_broker.bootstrap, "only-here") == []
        assert len(read_all(second.bootstrap, "only-here")) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_servers_end_when_their_parent_ends_however_it_ends(number: signal.Signals) -> None:
    with spawn(sys.executable, "-c", PARENT) as parent:
        line = next(x for x in parent.wait_for(" there").splitlines() if x.startswith("pids"))
        _, one, two, data, _ = line.split()
        assert not gone(int(one)) and not gone(int(two)) and Path(data).is_dir()
        parent.signal(number)
        parent.wait(PATIENCE)
        wait_until(lambda: gone(int(one)) and gone(int(two)), PATIENCE, "both servers are gone")
        wait_until(lambda: not Path(data).exists(), PATIENCE, "their files are gone")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's parent-death signal")
def test_a_program_ends_even_when_its_keeper_is_killed() -> None:
    with Child([sys.executable, "-c", "import time; time.sleep(600)"], name="sleeper") as child:
        os.kill(child._keeper.pid, signal.SIGKILL)
        wait_until(lambda: gone(child.pid), PATIENCE, "the program is gone")
        assert child.wait(PATIENCE) == -9


def test_what_a_program_started_ends_with_it() -> None:
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('grandchild', p.pid, flush=True)\n"
        "time.sleep(600)"
    )
    with spawn(sys.executable, "-c", code) as program:
        grandchild = int(program.wait_for("grandchild ").split()[1])
        program.kill9()
        wait_until(lambda: gone(grandchild), PATIENCE, "the grandchild is gone")


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace_time() -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    with spawn(sys.executable, "-c", code, grace=0.2) as program:
        program.wait_for("deaf")
    assert program.poll() == -9


def test_a_program_that_does_not_exist_is_one_clear_error() -> None:
    with pytest.raises(ServiceError, match="cannot be started: No such file"):
        Child(["/no/such/program"], name="nothing")


def test_the_exit_code_and_output_of_a_program_are_kept() -> None:
    with spawn(sys.executable, "-c", "print('to the end'); raise SystemExit(7)") as program:
        assert program.wait(PATIENCE) == 7
    assert program.lines == ["to the end"]


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 0), (signal.SIGTERM, 0)])
def test_the_broker_command_prints_its_address_and_ends_on_a_signal(number: signal.Signals, code: int) -> None:
    port = free_port()
    with spawn_cli("broker", "--port", str(port)) as program:
        program.wait_for(f"127.0.0.1:{port}")
        program.wait_for("Ctrl-C")
        make_topics(f"127.0.0.1:{port}", "by-hand", 1, also_internal=False)
        program.signal(number)
        assert program.wait(PATIENCE) == code


def test_the_s3_command_makes_buckets_and_prints_what_a_client_needs(tmp_path: Path) -> None:
    port = free_port()
    with spawn_cli("s3", "--port", str(port), "--bucket", "one", "--bucket", "two", "--data", tmp_path) as program:
        text = program.wait_for("Ctrl-C")
        words = dict(line.split("=", 1) for line in text.splitlines() if line.startswith("AWS_"))
        s3 = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id=words["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=words["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["one", "two"]
        assert program.interrupt(PATIENCE) == 0
    assert (tmp_path / "one").is_dir()


def test_a_command_on_a_port_in_use_ends_with_one_line_and_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, text = run_cli("broker", "--port", str(other.getsockname()[1]))
    assert code == 1
    assert text.startswith("error: ") and "in use" in text and len(text.strip().splitlines()) == 1


def test_the_proxy_carries_cuts_and_mends(proxied_broker: ProxiedBroker) -> None:
    make_topics(proxied_broker.bootstrap, "far", 1, also_internal=False)
    produce(proxied_broker.bootstrap, "far", [(b"1", os.urandom(300_000))])
    assert proxied_broker.proxy.passed > 300_000
    proxied_broker.proxy.cut()
    seen = proxied_broker.proxy.passed
    with pytest.raises(AssertionError, match="did not take"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.kafka.ANSWER_SECONDS", 0.5)
        produce(proxied_broker.bootstrap, "far", [(b"2", b"lost")])
    assert proxied_broker.proxy.passed == seen
    proxied_broker.proxy.mend()
    produce(proxied_broker.bootstrap, "far", [(b"3", b"back")])
    proxied_broker.proxy.delay = 0.05
    proxied_broker.proxy.rate = 5_000_000
    produce(proxied_broker.bootstrap, "far", [(b"4", os.urandom(100_000))])
    keys = [m.key() for m in read_all(proxied_broker.bootstrap, "far")]
    assert keys[0] == b"1" and keys[-1] == b"4" and b"3" in keys
