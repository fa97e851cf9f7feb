"""A Kafka-protocol broker and an S3 server as child processes: for the demo, tests and trying out on a single PC."""

from openmsi_streams.embedded.broker import EmbeddedBroker
from openmsi_streams.embedded.child import Child
from openmsi_streams.embedded.ports import free_port
from openmsi_streams.embedded.s3 import EmbeddedS3

__all__ = ["Child", "EmbeddedBroker", "EmbeddedS3", "free_port"]
