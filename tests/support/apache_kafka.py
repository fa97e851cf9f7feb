"""Apache Kafka on the JVM, from Maven's jars: for what the embedded broker cannot do (TLS, passwords, restarts)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import platformdirs
import pytest

from openmsi_streams.config import load, topics
from openmsi_streams.embedded.child import Child
from openmsi_streams.embedded.ports import free_port
from openmsi_streams.errors import BrokerError
from tests.support.waiting import wait_until

VERSION = "4.1.0"
# Any 16 bytes in base64.
CLUSTER = "MkU3OEVBNTcwNTJENDM2Qk"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>openmsi</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
  </dependencies>
</project>
"""
# Fetching the jars once, on a slow line.
FETCH_SECONDS = 600


def jars() -> Path:
    """Return the folder of Kafka's jars, fetched once; skip the test where that is not possible."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            pytest.skip(f"Apache Kafka needs {program}")
    folder = Path(platformdirs.user_cache_dir("openmsi-streams-tests")) / f"kafka-{VERSION}"
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pom.xml").write_text(POM, encoding="utf-8")
        done = subprocess.run(
            [
                "mvn",
                "-q",
                "-B",
                "-f",
                str(folder / "pom.xml"),
                "dependency:copy-dependencies",
                f"-DoutputDirectory={folder}",
            ],
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"Kafka's jars cannot be fetched: {done.stdout[-300:]}")
        (folder / "complete").touch()
    return folder


class ApacheKafka:
    """One broker in KRaft mode with two doors: plain, and TLS with a password (and optionally a client certificate)."""

    user, password = "lab", "0012345"

    def __init__(self, folder: Path, *, client_certificates: bool = False) -> None:
        """Prepare in ``folder``; nothing runs before ``with``."""
        self.folder = folder
        self.plain, self.secure, self.control = free_port(), free_port(), free_port()
        self.client_certificates = client_certificates
        self._jars = jars()
        self._child: Child | None = None

    @property
    def bootstrap(self) -> str:
        """Address of the plain door."""
        return f"127.0.0.1:{self.plain}"

    @property
    def secure_bootstrap(self) -> str:
        """Address of the door with TLS and password."""
        return f"localhost:{self.secure}"

    def certificates(self) -> None:
        """Make an authority, a certificate for localhost and one for a client, as PEM files."""
        (self.folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")

        def openssl(*words: str) -> None:
            subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)

        key = ("-newkey", "rsa:2048", "-nodes")
        openssl("req", "-x509", *key, "-days", "2", "-subj", "/CN=lab-ca", "-keyout", "ca.key", "-out", "ca.pem")
        for name in ("localhost", "client"):
            openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
            openssl(
                "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "san", "-out", f"{name}.pem",
            )  # fmt: skip
        pair = (self.folder / "localhost.key").read_text() + (self.folder / "localhost.pem").read_text()
        (self.folder / "server.pem").write_text(pair)

    def properties(self) -> str:
        """Return the broker's settings."""
        module = "org.apache.kafka.common.security"
        return f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{self.control}
controller.listener.names=CONTROLLER
listeners=PLAIN://127.0.0.1:{self.plain},SECURE://127.0.0.1:{self.secure},CONTROLLER://127.0.0.1:{self.control}
advertised.listeners=PLAIN://127.0.0.1:{self.plain},SECURE://localhost:{self.secure}
listener.security.protocol.map=PLAIN:PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAIN
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER
listener.name.secure.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{self.user}="{self.password}";
listener.name.secure.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.secure.oauthbearer.sasl.jaas.config={module}.oauthbearer.OAuthBearerLoginModule required \\
  unsecuredLoginStringClaim_sub="broker";
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location={self.folder}/server.pem
listener.name.secure.ssl.truststore.type=PEM
listener.name.secure.ssl.truststore.location={self.folder}/ca.pem
listener.name.secure.ssl.client.auth={"required" if self.client_certificates else "none"}
log.dirs={self.folder}/log
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=3
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""

    def _java(self, main: str, *words: str) -> list[str]:
        return ["java", "-Xmx512m", "-cp", f"{self._jars}{os.sep}*", main, *words]

    def __enter__(self) -> Self:
        self.certificates()
        settings = self.folder / "server.properties"
        settings.write_text(self.properties(), encoding="utf-8")
        subprocess.run(
            self._java(
                "kafka.tools.StorageTool", "format", "--config", str(settings), "--cluster-id", CLUSTER,
                "--add-scram", f"SCRAM-SHA-512=[name={self.user},password={self.password}]",
            ),
            check=True,
            capture_output=True,
        )  # fmt: skip
        self.start()
        return self

    def start(self) -> None:
        """Start the broker and wait until it answers; what an earlier run kept is there."""
        command = self._java("kafka.Kafka", str(self.folder / "server.properties"))
        self._child = Child(command, name="Apache Kafka", log=self.folder / "broker.log", cwd=self.folder, grace=20.0)
        chosen = load(flags={"broker.bootstrap": self.bootstrap, "broker.connect_timeout": 2}, environment={})

        def answers() -> bool:
            assert self._child is not None and self._child.poll() is None, self._child and self._child.text[-3000:]
            try:
                topics.read_broker(chosen)
            except BrokerError:
                return False
            return True

        wait_until(answers, 120.0, "Apache Kafka answers")

    def stop(self) -> None:
        """Stop the broker; `start` goes on with what it kept."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def settings_file(self, mechanism: str, token_endpoint: str = "") -> Path:
        """Write the one settings file that producer and worker share for the secure door."""
        lines = [
            "[broker]",
            f'bootstrap = "{self.secure_bootstrap}"',
            "[broker.options]",
            '"security.protocol" = "SASL_SSL"',
            f'"sasl.mechanism" = "{mechanism}"',
            f'"ssl.ca.location" = "{self.folder}/ca.pem"',
        ]
        if mechanism == "OAUTHBEARER":
            lines += [
                '"sasl.oauthbearer.method" = "oidc"',
                f'"sasl.oauthbearer.token.endpoint.url" = "{token_endpoint}"',
                f'"sasl.oauthbearer.client.id" = "{self.user}"',
                f'"sasl.oauthbearer.client.secret" = "@{self.folder}/password"',
            ]
        else:
            lines += [f'"sasl.username" = "{self.user}"', f'"sasl.password" = "@{self.folder}/password"']
        if self.client_certificates:
            lines += [
                f'"ssl.certificate.location" = "{self.folder}/client.pem"',
                f'"ssl.key.location" = "{self.folder}/client.key"',
            ]
        (self.folder / "password").write_text(self.password + "\n")
        path = self.folder / "openmsi-streams.toml"
        path.write_text("\n".join(lines) + "\n")
        return path
