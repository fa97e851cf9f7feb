"""`.config` files of OpenMSIStream and openmsipython are read as they are, and nothing in them is mangled."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmsi_streams.config import kafka, load
from openmsi_streams.config.legacy import read_legacy, translate
from openmsi_streams.errors import ConfigurationError

# Written from the documented facts of those programs: one file per kind that their users have.
LOCAL = """
[broker]
bootstrap.servers = 127.0.0.1:9092
[producer]
batch.size = 200000
linger.ms = 100
compression.type = lz4
key.serializer = StringSerializer
value.serializer = DataFileChunkSerializer
[consumer]
group.id = create_new
auto.offset.reset = earliest
enable.auto.commit = False
fetch.min.bytes = 100000
key.deserializer = StringDeserializer
value.deserializer = DataFileChunkDeserializer
"""
CLOUD = """
[broker]
bootstrap.servers = $KAFKA_PROD_CLUSTER_BOOTSTRAP_SERVERS
sasl.mechanism = PLAIN
security.protocol = SASL_SSL
sasl.username = $KAFKA_PROD_CLUSTER_USERNAME
sasl.password = $KAFKA_PROD_CLUSTER_PASSWORD
[consumer]
group.id = lab_group
client.id = reader-1
group.instance.id = reader-1
"""
S3 = (
    LOCAL
    + """
[s3]
access_key_id = $ACCESS_KEY_ID
secret_key_id = 0012345
endpoint_url = s3.lab.example
region = us-east-1
"""
)
OSN = """
[broker]
bootstrap.servers = localhost:9092
[osn]
access_key_id = 1e3
secret_key_id = x
endpoint_url = $ENDPOINT_URL
region = us-east-1
"""
MONITORED = """
[broker]
bootstrap.servers = localhost:9092
[heartbeat]
bootstrap.servers = other:9092
prefer.separate.producer = False
[log]
batch.size = 2000000
max.logs.per.message = 100
"""
ENVIRONMENT = {
    "KAFKA_PROD_CLUSTER_BOOTSTRAP_SERVERS": "pkc-1.cloud:9092",
    "KAFKA_PROD_CLUSTER_USERNAME": "007",
    "KAFKA_PROD_CLUSTER_PASSWORD": "1e5",
    "ACCESS_KEY_ID": "12",
    "ENDPOINT_URL": "osn.example:443",
}


def written(folder: Path, text: str, name: str = "lab.config") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", [LOCAL, CLOUD, S3, OSN, MONITORED], ids=["local", "cloud", "s3", "osn", "monitored"])
def test_each_documented_kind_of_file_loads(tmp_path: Path, text: str) -> None:
    settings = load(written(tmp_path, text), environment=ENVIRONMENT)
    assert settings.broker.bootstrap.endswith(("9092",))
    kafka.producer(settings)
    kafka.consumer(settings)


def test_variables_are_expanded_and_stay_text(tmp_path: Path) -> None:
    settings = load(written(tmp_path, CLOUD), environment=ENVIRONMENT)
    assert settings.broker.bootstrap == "pkc-1.cloud:9092"
    assert settings.broker.options["sasl.username"] == "007"
    assert settings.broker.options["sasl.password"] == "1e5"


def test_a_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="KAFKA_PROD_CLUSTER_BOOTSTRAP_SERVERS"):
        load(written(tmp_path, CLOUD), environment={})


def test_secrets_that_look_like_numbers_stay_as_written(tmp_path: Path) -> None:
    settings = load(written(tmp_path, S3), environment=ENVIRONMENT)
    assert settings.s3["main"].secret_access_key == "0012345"
    assert settings.s3["main"].access_key_id == "12"
    assert load(written(tmp_path, OSN), environment=ENVIRONMENT).s3["main"].access_key_id == "1e3"


def test_an_endpoint_without_scheme_is_https(tmp_path: Path) -> None:
    settings = load(written(tmp_path, S3), environment=ENVIRONMENT)
    assert settings.s3["main"].endpoint == "https://s3.lab.example"
    assert load(written(tmp_path, OSN), environment=ENVIRONMENT).s3["main"].endpoint == "https://osn.example:443"


def test_keys_of_one_client_do_not_reach_the_other(tmp_path: Path) -> None:
    settings = load(written(tmp_path, LOCAL), environment={})
    producer, consumer = kafka.producer(settings), kafka.consumer(settings)
    assert producer["linger.ms"] == "100" and "linger.ms" not in consumer
    assert consumer["fetch.min.bytes"] == "100000" and "fetch.min.bytes" not in producer
    assert settings.producer.compression == "lz4"
    assert "linger.ms" not in kafka.client(settings)


def test_keys_that_stand_in_the_wrong_section_find_their_client(tmp_path: Path) -> None:
    text = "[broker]\nbootstrap.servers=a:1\nlinger.ms=5\nfetch.min.bytes=1\nsocket.keepalive.enable=true\n"
    settings = load(written(tmp_path, text), environment={})
    assert settings.broker.options == {"socket.keepalive.enable": "true"}
    assert settings.producer.options == {"linger.ms": "5"}
    assert settings.worker.options == {"fetch.min.bytes": "1"}


def test_options_that_no_one_knows_here_are_passed_on(tmp_path: Path) -> None:
    text = "[broker]\nbootstrap.servers=a:1\nsome.future.option = 7\n"
    assert load(written(tmp_path, text), environment={}).broker.options == {"some.future.option": "7"}


def test_what_would_break_a_promise_is_left_out_and_noted(tmp_path: Path) -> None:
    path = written(tmp_path, "[broker]\nbootstrap.servers=a:1\n[producer]\nacks = 1\nenable.idempotence = false\n")
    legacy = translate(path)
    assert len(legacy.notes) == 2 and "acks = 1" in legacy.notes[0]
    assert kafka.producer(load(path, environment={}))["acks"] == "all"


def test_a_fresh_group_is_not_made_at_each_start_but_a_named_one_is_kept(tmp_path: Path) -> None:
    assert "worker" not in read_legacy(written(tmp_path, "[consumer]\ngroup.id = create_new\n"))
    assert read_legacy(written(tmp_path, CLOUD))["worker"]["id"] == "lab_group"


def test_percent_signs_and_hashes_in_values_are_kept(tmp_path: Path) -> None:
    text = "[broker]\nbootstrap.servers=a:1\nsasl.password = 50%off#really;yes\n"
    assert load(written(tmp_path, text), environment={}).broker.options["sasl.password"] == "50%off#really;yes"


def test_a_node_is_found_beside_the_file_and_its_path_is_not_shortened(tmp_path: Path) -> None:
    (tmp_path / "filestore").mkdir()
    (tmp_path / "filestore" / "filestore.config").write_text("")
    tree = read_legacy(written(tmp_path, "[kafkacrypto]\nnode_id = filestore\n"))
    assert tree["crypto"]["node"] == str(tmp_path / "filestore" / "filestore.config")
    named = written(tmp_path, "[kafkacrypto]\nconfig_file = file#lab/node.config\n", "b.config")
    assert read_legacy(named)["crypto"]["node"] == "lab/node.config"


def test_a_separate_broker_for_heartbeats_is_noted_not_dropped_silently(tmp_path: Path) -> None:
    notes = translate(written(tmp_path, MONITORED)).notes
    assert any("other:9092" in note for note in notes)


def test_an_unset_s3_variable_does_not_stop_an_instrument_pc(tmp_path: Path) -> None:
    settings = load(written(tmp_path, S3), environment={})
    assert settings.s3["main"].access_key_id == "$ACCESS_KEY_ID"


def test_a_byte_order_mark_of_notepad_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "lab.config"
    path.write_bytes(b"\xef\xbb\xbf" + LOCAL.encode())
    assert load(path, environment={}).broker.bootstrap == "127.0.0.1:9092"


def test_a_file_that_is_not_ini_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"lab\.config.*line"):
        load(written(tmp_path, "no section here\n"), environment={})
