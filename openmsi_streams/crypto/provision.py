"""Making and mending nodes, without questions."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmsi_streams.chunks.topics import check_topic
from openmsi_streams.crypto import chains, files, library, vault
from openmsi_streams.crypto.authority import KEY_TYPE, Authority, NodeRole, expiry, roots_of
from openmsi_streams.crypto.node import WARN_AHEAD
from openmsi_streams.errors import CryptoError

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

# kafkacrypto reads values like 12345, 1e5 and true as numbers and truth values, and "%" as a reference.
_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$")
DAYS = 365.0
# How long a signed request or answer is good for; above the clock error of the PCs and the longest outage.
MAXAGE = 3 * 86400
# Our programs set these themselves; they stand in the file for upstream's programs.
_OWN = {
    "mgmt_long_keyindex": "True",
    "deser_initial_wait_intervals": "0",
    "mgmt_poll_interval": "100",
    "crypto_sub_interval": "10",
    "crypto_max_pgen_age": str(90 * 86400),
}


def provision(
    authority: Authority,
    node_id: str,
    role: NodeRole,
    topics: Sequence[str],
    folder: Path,
    settings: Settings,
    *,
    days: float = DAYS,
) -> files.NodeFiles:
    """Make a node, or give a node that is there a new chain; keys and seed that exist are kept.

    Args:
        authority: who signs.
        node_id: name of the node and its files.
        role: what it may do.
        topics: for which topics (their roots are granted).
        folder: where its files go.
        settings: the broker's address and security, which upstream's programs read from the node file.
        days: validity of the chain; 0: for ever.

    Returns:
        The files. A producer's first seed is in the authority's vault before the node can use it.

    Raises:
        CryptoError: a name that KafkaCrypto cannot hold, a node that runs, or a seed without its keys.
        TopicError: a topic name that Kafka refuses.
    """
    library.load()
    if not _NAME.match(node_id) or node_id.lower() in ("true", "false", "nan", "inf", "infinity"):
        raise CryptoError(
            f"{node_id!r} cannot be a node's name: it begins with a letter, then letters, digits, '.', '_', '-'."
        )
    if not topics:
        raise CryptoError("No topic is named. Give each topic with --topics.")
    for topic in topics:
        if not topic.startswith("^"):
            check_topic(topic)
    folder = folder.expanduser().absolute()
    if "%" in str(folder):
        raise CryptoError(f"KafkaCrypto cannot hold a '%' in a path ({folder}). Choose another folder.")
    config = folder / f"{node_id}.config"
    there = config.exists()
    if there:
        found = files.NodeFiles(config)
        found.require_except_trust()
        claim = files.Claim(found)
        try:
            _rewrite(authority, found, role, topics, days)
        finally:
            claim.release()
        return files.NodeFiles(config)
    secret, seed = folder / f"{node_id}.crypto", folder / f"{node_id}.seed"
    for path in (secret, seed):
        if path.exists():
            raise CryptoError(
                f"{path} is there, but {config.name} is not. Put the configuration back from a copy, or choose another "
                "name: the seed is never overwritten."
            )
    first_seed = chains.pack([0, library.sodium().randombytes(32)])
    public = _new_secret(secret)
    if role != "consumer":
        vault.add(authority, node_id, public, first_seed, roots_of(topics))
    files.write_secret(seed, first_seed, new=True)
    chain = authority.chain(public, role, topics, expiry(days))
    files.write_secret(config, _text(node_id, secret, seed, chain, authority.root, settings), new=True)
    made = files.NodeFiles(config)
    _give_table_key(authority, made, role)
    return made


def renew(
    authority: Authority,
    path: Path,
    *,
    role: NodeRole | None = None,
    topics: Sequence[str] = (),
    days: float = DAYS,
    write: bool = True,
) -> tuple[bytes, bytes]:
    """Sign a new chain for a node that exists.

    Args:
        authority: who signs.
        path: the node's configuration.
        role: None: as now.
        topics: empty: as now.
        days: validity from now.
        write: put it into the node's file, which must not be in use; else only return it for publishing.

    Returns:
        The node's public key and the chain: key and value of a message on the topic ``chains``.
    """
    library.load()
    found = files.NodeFiles(path)
    found.require_except_trust()
    now = chains.best(found)
    if role is None:
        if now.role not in ("producer", "consumer", "both"):
            raise CryptoError(f"The node {found.node_id} has no role that we know. Give one with --role.")
        role = now.role  # type: ignore[assignment]
    assert role is not None
    granted = topics or now.topics
    if not write:
        public = public_key(found)
        return public, authority.chain(public, role, granted, expiry(days))
    claim = files.Claim(found)
    try:
        return _rewrite(authority, found, role, granted, days)
    finally:
        claim.release()


def publish(settings: Settings, public: bytes, chain: bytes) -> None:
    """Send a chain to the topic ``chains``, where its node finds it, running or at its next start.

    Raises:
        BrokerError: the broker did not take it.
    """
    from confluent_kafka import Producer

    from openmsi_streams.config import kafka

    failed: list[Any] = []

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            failed.append(error)

    producer = kafka.built(Producer, kafka.producer(settings))
    producer.produce("chains", key=public, value=chain, partition=0, on_delivery=delivered)
    if producer.flush(settings.broker.connect_timeout) or failed:
        raise kafka.no_broker(settings, str(failed[0]) if failed else "")


def findings(path: Path, *, repair: bool = False) -> tuple[list[str], list[str]]:
    """Return what is wrong with a node, and what was repaired.

    With ``repair``, modes are tightened, the temporary root is removed and relative paths are made absolute; the node
    must not be in use.
    """
    found = files.NodeFiles(path)
    problems: list[str] = []
    repaired: list[str] = []
    if repair:
        repaired = _repair(found)
        found = files.NodeFiles(path)
    try:
        found.require()
    except CryptoError as error:
        problems.append(str(error))
    problems += [f"{one} can be read by others; set its mode to 600 (--repair does)." for one in found.loose_modes()]
    for name in ("cryptokey", "ratchet"):
        value = str(found.values().get(name) or "")
        if value and not Path(value.removeprefix("file#")).is_absolute():
            problems.append(f"The path {name} in {found.config} is relative: it breaks when a program changes folder.")
    problems += _chain_problems(found)
    if not library.is_known_version():
        problems.append("This version of kafkacrypto is not one that was tested here; install kafkacrypto 0.9.11.x.")
    return problems, repaired


def _chain_problems(found: files.NodeFiles) -> list[str]:
    try:
        certificate = chains.best(found)
    except CryptoError as error:
        return [str(error)] if found.chains and found.roots else []
    if certificate.expires is None:
        return []
    left = certificate.expires - datetime.now(UTC)
    if left.total_seconds() <= 0:
        return [f"The certificate expired on {certificate.expires:%Y-%m-%d %H:%M} UTC. Renew it now."]
    if left < WARN_AHEAD:
        return [f"The certificate expires in {left.days} days, on {certificate.expires:%Y-%m-%d}. Renew it."]
    return []


def _repair(found: files.NodeFiles) -> list[str]:
    done: list[str] = []
    for path in found.loose_modes():
        os.chmod(path, 0o600)
        done.append(f"mode of {path} set to 600")
    parser = files.parser()
    parser.read_string(found.config.read_text(encoding="utf-8"))
    before = _dump(parser)
    trusted = f"{found.node_id}-allowlist"
    if parser.has_section(trusted) and parser.remove_option(trusted, files.TEMPORARY):
        done.append("temporary root removed")
    for name, path in (("cryptokey", found.secret), ("ratchet", found.seed)):
        value = str(found.values().get(name) or "")
        if not Path(value.removeprefix("file#")).is_absolute() and path.is_file():
            parser.setdefault(found.node_id, {})
            parser[found.node_id][name] = f"file#{path}"
            done.append(f"path {name} made absolute")
    if _dump(parser) != before:
        claim = files.Claim(found)
        try:
            files.write_secret(found.config, _dump(parser))
        finally:
            claim.release()
    return done


def public_key(found: files.NodeFiles) -> bytes:
    """Return a node's public key, 32 bytes."""
    library.load()
    from kafkacrypto.cryptokey import CryptoKey

    return bytes(CryptoKey(str(found.secret), keytypes=[KEY_TYPE]).get_spk(0))


def _new_secret(path: Path) -> bytes:
    from kafkacrypto.cryptokey import CryptoKey

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The library opens the file by name; nobody else may read it in the meantime.
    before = os.umask(0o077)
    try:
        public = bytes(CryptoKey(str(path), keytypes=[KEY_TYPE]).get_spk(0))
    finally:
        os.umask(before)
    os.chmod(path, 0o600)
    return public


def _rewrite(
    authority: Authority, found: files.NodeFiles, role: NodeRole, topics: Sequence[str], days: float
) -> tuple[bytes, bytes]:
    """Replace chain and root in a node's file; what else it holds, old data keys above all, stays."""
    public = public_key(found)
    chain = authority.chain(public, role, topics, expiry(days))
    parser = files.parser()
    parser.read_string(found.config.read_text(encoding="utf-8"))
    for section in ("chains", "allowlist"):
        parser.setdefault(f"{found.node_id}-{section}", {})
    own, trusted = parser[f"{found.node_id}-chains"], parser[f"{found.node_id}-allowlist"]
    for name in list(own):
        if name.startswith("chain"):
            own.pop(name, None)
    own["chain0"] = files.encode(chain)
    trusted.pop(files.TEMPORARY, None)
    if authority.root not in found.roots.values():
        names = (f"rot{number}" for number in range(len(trusted) + 1))
        trusted[next(name for name in names if name not in trusted)] = files.encode(authority.root)
    files.write_secret(found.config, _dump(parser))
    _give_table_key(authority, found, role)
    return public, chain


def _give_table_key(authority: Authority, found: files.NodeFiles, role: NodeRole) -> None:
    # Whoever may read the topics may read the rows about them.
    if role != "producer" and not found.table_key.exists():
        files.write_secret(found.table_key, authority.table_key.hex().encode("ascii"))


def _text(node_id: str, secret: Path, seed: Path, chain: bytes, root: bytes, settings: Settings) -> bytes:
    options = settings.broker.options
    parser = files.parser()
    parser["DEFAULT"]["node_id"] = node_id
    parser[node_id] = {**_OWN, "cryptokey": f"file#{secret}", "ratchet": f"file#{seed}"}
    parser[f"{node_id}-crypto"] = {"maxage": str(MAXAGE)}
    parser[f"{node_id}-chains"] = {"chain0": files.encode(chain)}
    parser[f"{node_id}-allowlist"] = {"rot0": files.encode(root)}
    parser[f"{node_id}-denylist"] = {}
    # Passwords stay out: this file is not the place, and "%" in one would break it.
    parser[f"{node_id}-kafka"] = {
        "bootstrap_servers": settings.broker.bootstrap,
        "security_protocol": options.get("security.protocol", "PLAINTEXT").upper(),
        "ssl_cafile": options.get("ssl.ca.location", ""),
    }
    for section in ("kafka-consumer", "kafka-producer", "kafka-crypto", "kafka-crypto-producer"):
        parser[f"{node_id}-{section}"] = {}
    parser[f"{node_id}-kafka-crypto-consumer"] = {"auto_offset_reset": "earliest", "session_timeout_ms": "6000"}
    return _dump(parser)


def _dump(parser: Any) -> bytes:
    out = StringIO()
    parser.write(out)
    return out.getvalue().encode("utf-8")
