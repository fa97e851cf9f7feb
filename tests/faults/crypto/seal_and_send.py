"""A producer as a process of its own: seal one message, send it, say so, and wait to be killed.

Arguments: node file, broker, topic, text, and "first" to kill itself as soon as the broker has the message.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from confluent_kafka import Producer

from openmsi_streams.config import Settings
from openmsi_streams.crypto.node import open_node

node_file, bootstrap, topic, text, when = sys.argv[1:]
settings = Settings()
settings.broker.bootstrap = bootstrap
settings.crypto.node = node_file
node = open_node(settings, "producer")
producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
key, value = node.seal(topic, text.encode(), b"content of " + text.encode())


def delivered(error: object, _: object) -> None:
    """The first message of the new data key is on the broker: this is the worst moment."""
    if error is None and when == "first":
        os.kill(os.getpid(), signal.SIGKILL)


producer.produce(topic, value, key, on_delivery=delivered)
assert producer.flush(30) == 0
print("sent", flush=True)
while True:
    time.sleep(1)
