"""One settings file opens a broker with TLS and a password to the producer (librdkafka) and the worker (aiokafka)."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from openmsi_streams.cli import cli
from openmsi_streams.config import load
from openmsi_streams.config import topics as t
from openmsi_streams.errors import BrokerError
from tests.support.apache_kafka import ApacheKafka
from tests.support.programs import spawn_cli
from tests.support.workers import Worker, wait_delivered

pytestmark = [pytest.mark.kafka, pytest.mark.broker]


@pytest.fixture(scope="module", params=[False, True], ids=["password", "password and client certificate"])
def kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    with ApacheKafka(tmp_path_factory.mktemp("kafka"), client_certificates=request.param) as broker:
        yield broker


@pytest.fixture(scope="module")
def token_endpoint() -> Iterator[str]:
    """Gives tokens without a signature to who knows the secret; Kafka's own validator for trials takes them."""

    def part(content: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            # librdkafka names itself in a header, our own provider in the form: RFC 6749 allows both.
            basic = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
            if ApacheKafka.password not in basic + asked:
                self.send_error(401)
                return
            now = time.time()
            claims: dict[str, object] = {"sub": ApacheKafka.user, "iat": now, "exp": now + 3600, "scope": "kafka"}
            token = f"{part({'alg': 'none'})}.{part(claims)}."
            answer = json.dumps({"access_token": token, "expires_in": 3600, "token_type": "Bearer"}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/token"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512", "OAUTHBEARER"])
def test_a_transfer_through_tls_and_sasl_from_one_settings_file(
    kafka: ApacheKafka, tmp_path: Path, mechanism: str, token_endpoint: str
) -> None:
    settings = kafka.settings_file(mechanism, token_endpoint)
    topic = f"secure-{mechanism.lower()}"
    source = tmp_path / "source"
    (source / "run").mkdir(parents=True)
    files = {"run/large.bin": os.urandom(3_000_000), "small.csv": b"1,2\n"}
    hashes = {name: hashlib.sha512(content).hexdigest() for name, content in files.items()}
    for name, content in files.items():
        (source / name).write_bytes(content)
    environment = {"OPENMSI_STREAMS_CONFIG": str(settings)}
    with Worker(kafka.secure_bootstrap, topic, tmp_path, worker__id=f"id-{topic}") as worker:
        worker.env = {**worker.env, **environment}
        worker.start()
        with spawn_cli("upload", str(source), "--topic", topic, env=environment) as upload:
            assert upload.wait(120) == 0, upload.text
        # Receipts are read through the plain door: what arrived is the same log.
        wait_delivered(kafka.bootstrap, topic, hashes, 60.0, worker)
        stored = {
            hashlib.sha512(path.read_bytes()).hexdigest()
            for path in worker.root.rglob("*")
            if path.is_file() and ".partial" not in path.parts
        }
        assert set(hashes.values()) <= stored
        assert worker.stop() == 0, worker.text


def test_topics_are_planned_and_checked_through_the_secure_door(kafka: ApacheKafka) -> None:
    path = kafka.settings_file("SCRAM-SHA-512")
    name = "planned"
    for verb, code in (("check", 1), ("apply", 0), ("check", 0)):
        result = CliRunner().invoke(cli, ["topics", verb, name, "--config", str(path)])
        assert result.exit_code == code, result.output
    again = CliRunner().invoke(cli, ["topics", "apply", name, "--config", str(path)])
    assert again.output.startswith("0 created, 0 changed"), again.output


def test_the_settings_are_compared_with_a_real_brokers_limits(kafka: ApacheKafka) -> None:
    from openmsi_streams.config.broker_checks import broker_problems

    path = kafka.settings_file("PLAIN")
    flags = {"worker.topics": ["compared"], "chunks.chunk_bytes": 4 << 20, "worker.session_seconds": 3600}
    found = {problem.key: problem for problem in broker_problems(load(path, flags))}
    assert "message.max.bytes is 1048588" in found["chunks.chunk_bytes"].cause
    assert "1800 s" in found["worker.session_seconds"].cause
    assert "topics apply" in found["worker.topics"].cure


def test_a_wrong_password_is_refused_with_an_error_not_a_traceback(kafka: ApacheKafka) -> None:
    path = kafka.settings_file("PLAIN")
    (kafka.folder / "password").write_text("wrong")
    with pytest.raises(BrokerError, match="password"):
        t.read_broker(load(path, {"broker.connect_timeout": 3}))


def test_a_plain_client_at_a_secure_door_is_told_what_it_may_be(kafka: ApacheKafka) -> None:
    own = load(flags={"broker.bootstrap": kafka.secure_bootstrap, "broker.connect_timeout": 3}, environment={})
    with pytest.raises(BrokerError, match="TLS"):
        t.read_broker(own)
