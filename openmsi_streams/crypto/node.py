"""A node: one process with one identity, which seals and opens messages.

`open_node` is all that a producer or a worker needs; nothing of kafkacrypto shows outside.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from openmsi_streams.chunks.reasons import Unusable
from openmsi_streams.crypto import chains, compress, library
from openmsi_streams.crypto.files import Certificate, Claim, NodeFiles
from openmsi_streams.crypto.keyring import Keyring
from openmsi_streams.crypto.messages import Envelope, Opener, Waiting, parse, root_of
from openmsi_streams.errors import CryptoError

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

log = logging.getLogger(__name__)

Role = Literal["producer", "worker", "reader"]

WARN_AHEAD = timedelta(days=30)
# A renewed chain may lie on the broker; a node whose chain has expired looks so long for it before it gives up.
RENEWAL_SECONDS = 8.0
# The library writes a new data key to disk in its next turn, 0.1 s later; much more means that it hangs.
STORE_SECONDS = 30.0
# A reader of receipts waits so long for a key: an exchange takes a second, with a worker that has just been restarted
# ten. A worker that is gone for good must not hold up the receipts of the others for longer.
OPEN_SECONDS = 30.0
# A closed node leaves after so long, whatever the broker does.
CLOSE_SECONDS = 5.0
# How often the stored chain is looked at again: it may be renewed over the air.
CERTIFICATE_SECONDS = 30.0
KEYRING_SECONDS = 1.0
# Wanted keys at most. An honest lab waits for a handful; a stranger can invent any number.
MAX_WANTED = 10_000
# A seed from a backup is behind by one step for each start and day since.
MAX_STEPS = 2000
_FOREVER = datetime.max.replace(tzinfo=UTC)


def is_encrypted(settings: Settings, topic: str) -> bool:
    """Say whether messages on this topic must be encrypted.

    Topics beside a chunk topic (``topic.receipts``, ``topic.quarantine``) share its root and so its answer.
    """
    if not settings.crypto.node:
        return False
    return not settings.crypto.topics or root_of(topic) in {root_of(one) for one in settings.crypto.topics}


def open_node(settings: Settings, role: Role, topics: Iterable[str] = ()) -> Node:
    """Open the node that `crypto.node` names and start its exchange of keys.

    Args:
        settings: `crypto.node`, the broker and its security.
        role: a ``producer`` must be allowed to hand out keys, a ``reader`` to ask for them, a ``worker`` both: it
            writes receipts.
        topics: topics whose old keys are served from the start, beside those in the certificate.

    Raises:
        CryptoError: the node is not usable: files missing, in use, not provisioned, chain expired or not for this
            role.
        ExtraMissing: kafkacrypto is not installed.
    """
    files = NodeFiles(settings.crypto.node)
    library.load()
    files.require()
    certificate = chains.best(files)
    if role != "reader" and not certificate.may_write:
        raise _wrong_role(files, certificate, "producer" if role == "producer" else "both, which a worker needs")
    if role != "producer" and not certificate.may_read:
        raise _wrong_role(files, certificate, "consumer")
    claim = Claim(files)
    try:
        node = Node(settings, files, claim, certificate)
    except BaseException:
        claim.release()
        raise
    try:
        node.start(topics)
    except BaseException:
        node.close()
        raise
    return node


def _wrong_role(files: NodeFiles, certificate: Certificate, wanted: str) -> CryptoError:
    return CryptoError(
        f"The node {files.node_id} was provisioned as {certificate.role}, not as {wanted}. Provision it again with "
        f"`openmsi-streams crypto provision {files.node_id} --role both`."
    )


class Node:
    """An open node. All methods are thread-safe."""

    def __init__(self, settings: Settings, files: NodeFiles, claim: Claim, certificate: Certificate) -> None:
        """Start the machine; use `open_node`."""
        from openmsi_streams.crypto import engine

        self.files = files
        self.node_id = files.node_id
        self._claim = claim
        self._certificate = certificate
        self._certificate_read = time.monotonic()
        self._compression = settings.crypto.compression
        self._engine = engine
        # With the root: the data keys of all roots of one generation share their index.
        self._stored: set[tuple[str, bytes]] = set()
        self._generators: dict[tuple[str, bytes], tuple[Any, Any]] = {}
        self._given_up: set[tuple[str, bytes]] = set()
        self._closing = threading.Lock()
        self._closed = False
        self._received = 0
        self._keyring_read = 0.0
        self._box_open = (library.fast_box() or library.sodium()).crypto_secretbox_open
        self._store, self._machine = engine.build(settings, files)
        self.keyring = Keyring(
            files.keyring, self._machine._cryptokey.wrap_opaque, self._machine._cryptokey.unwrap_opaque
        )
        self._key_serializer = self._machine.getKeySerializer()
        self._value_serializer = self._machine.getValueSerializer()
        self._machine.on_turn = self._on_turn
        self._opener = Opener(self)

    def start(self, topics: Iterable[str]) -> None:
        """Look for a renewed chain if this one has expired, and serve the keys of earlier runs."""
        if self._is_expired():
            self._await(lambda: not self._is_expired(reread=True), RENEWAL_SECONDS)
            self._refuse_expired()
        left = self.expiry() - datetime.now(UTC)
        if left < WARN_AHEAD:
            log.warning(
                "The certificate of node %s expires in %d days, on %s. Renew it: `openmsi-streams crypto renew`.",
                *(self.node_id, left.days, f"{self.expiry():%Y-%m-%d}"),
            )
        if self.may_write:
            named = {root_of(one) for one in (*topics, *self._certificate.topics) if one and not one.startswith("^")}
            for root in {*named, *self._machine._pgens}:
                self._machine.serve(root)

    # -- sealing -----------------------------------------------------------------------------------------------------

    def seal(self, topic: str, key: bytes | None, value: bytes | None) -> tuple[bytes | None, bytes | None]:
        """Return key and value encrypted. A new data key is on disk before its first message is returned.

        Equal keys give different bytes: choose the partition from the plain key first.

        Raises:
            CryptoError: nothing was sealed: chain expired, wrong role, topic not allowed, thread dead, disk full.
        """
        self._refuse_expired()
        root = root_of(topic)
        if not self._may_write_to(root):
            raise CryptoError(
                f"The node {self.node_id} may not write to {topic}: it was provisioned as {self._certificate.role} for "
                f"{', '.join(self._certificate.topics) or 'no topic'}. Provision it for this topic; no reader would "
                "accept its keys."
            )
        if value is not None:
            value = compress.frame(value, self._compression)
        sealed_key = self._serialize(self._key_serializer, root, topic, key)
        sealed_value = self._serialize(self._value_serializer, root, topic, value)
        for sealed in (sealed_key, sealed_value):
            envelope = parse(sealed)
            if envelope is not None and (root, envelope.key_index) not in self._stored:
                self._wait_stored()
                self._stored.add((root, envelope.key_index))
        return sealed_key, sealed_value

    def seal_value(self, topic: str, value: bytes) -> bytes:
        """Return a value encrypted, for compacted topics whose keys must stay equal and tell nothing; see `seal`."""
        sealed = self.seal(topic, None, value)[1]
        assert sealed is not None
        return sealed

    def _serialize(self, serializer: Any, root: str, topic: str, data: bytes | None) -> bytes | None:
        if data is None:
            return None
        for _ in range(MAX_STEPS):
            self._refuse_dead()
            try:
                return bytes(serializer.serialize(topic, data))
            except CryptoError:
                raise
            except Exception as error:
                if not self._machine.forget_current(root):
                    raise CryptoError(
                        f"A message for {topic} could not be encrypted ({error!r}). It was not sent; if this stays, "
                        "restart the process, and check the node with `openmsi-streams crypto check`."
                    ) from error
                log.warning("The seed of node %s is older than its last data key; stepping it on.", self.node_id)
        raise CryptoError(f"The seed of node {self.node_id} is too old. Provision the node under a new name.")

    def _wait_stored(self) -> None:
        if not self._await(self._machine.is_stored, STORE_SECONDS):
            raise CryptoError(
                f"A new data key of node {self.node_id} could not be written to {self.files.config} within "
                f"{STORE_SECONDS:g} s, so nothing was sent with it. Check the disk."
            )

    # -- opening -----------------------------------------------------------------------------------------------------

    def open(self, topic: str, value: bytes, patience: float = OPEN_SECONDS) -> bytes | None:
        """Return a value in the clear, waiting up to ``patience`` seconds for its data key; for a reader of receipts.

        None: the key did not come in time (it is asked for further), or the value is not encrypted or was changed, so
        that nothing may be concluded from it; the reason is logged.

        Raises:
            CryptoError: this node may not read.
        """
        if not self.may_read:
            raise _wrong_role(self.files, self._certificate, "consumer")
        limit = time.monotonic() + patience
        try:
            while isinstance(opened := self._opener.open(topic, None, value), Waiting):
                name = (opened.root, opened.key_index)
                if name in self._given_up or self._closed:
                    return None
                if time.monotonic() >= limit:
                    if patience:
                        log.warning("The data key of a message on %s did not come within %g s.", topic, patience)
                        # The next thousand messages of a worker that is gone are not waited for one by one.
                        self._given_up.add(name)
                    return None
                time.sleep(0.05)
        except Unusable as error:
            log.warning("A message on %s was passed over: %s", topic, error)
            return None
        return opened.value

    def has_key(self, root: str, key_index: bytes) -> bool:
        """Say whether the data key is here."""
        return self._secret(root, key_index) is not None

    def request(self, root: str, key_index: bytes) -> None:
        """Ask for a data key now and, at most every ten seconds, until it comes or `forget` is called."""
        wanted = self._machine.wanted.setdefault(root, {})
        if key_index not in wanted and sum(map(len, list(self._machine.wanted.values()))) < MAX_WANTED:
            wanted[key_index] = time.time()

    def forget(self, root: str, key_index: bytes) -> None:
        """Ask no more for a data key."""
        self._machine.wanted.get(root, {}).pop(key_index, None)

    def decrypt(self, root: str, field: str, envelope: Envelope) -> bytes:
        """Return the plaintext of a ``key`` or ``value`` field; a large one may be a bytearray.

        Raises:
            ValueError: the key is not here, or the field was changed.
        """
        name = (root, envelope.key_index)
        pair = self._generators.get(name)
        if pair is None:
            secret = self._secret(root, envelope.key_index)
            if secret is None:
                raise ValueError("no key")
            if len(self._generators) > MAX_WANTED:
                self._generators.clear()
            pair = self._generators[name] = self._engine.generators(secret)
        # The nonce follows from the salt alone, so any number of threads may use the same generator.
        box_key, nonce = pair[0 if field == "key" else 1].generate(salt=envelope.salt)
        plain: bytes = self._box_open(envelope.box, nonce, box_key)
        return plain

    def _secret(self, root: str, key_index: bytes) -> bytes | None:
        return self._machine.secret(root, key_index) or self.keyring.get(root, key_index)

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def may_write(self) -> bool:
        """Whether the certificate lets this node hand out data keys."""
        return self._certificate.may_write

    @property
    def may_read(self) -> bool:
        """Whether the certificate lets this node ask for data keys."""
        return self._certificate.may_read

    def expiry(self) -> datetime:
        """Return when the certificate chain expires (UTC); the last day of the calendar if never."""
        self._is_expired()
        return self._certificate.expires or _FOREVER

    def alive(self) -> bool:
        """Say whether keys are still exchanged. A worker or producer whose node is dead must end."""
        return not self._closed and self._machine.alive()

    def failure(self) -> str:
        """Say why the node is not alive; empty while it is."""
        if self._closed:
            return "the node is closed"
        return (
            "" if self._machine.alive() else f"KafkaCrypto's background thread has stopped: {self._machine.failure!r}"
        )

    def is_handed_over(self) -> bool:
        """Say whether some reader has been given every data key that was used since the node was opened."""
        producer = self._machine._kp
        given = set() if producer is None else set(producer.handed_over)
        return all((root + self._engine.KEYS_SUFFIX, index) in given for root, index in set(self._stored))

    def linger(self, seconds: float, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Wait until `is_handed_over`, for a sender that ends after its files: readers keep a key once they have it.

        Args:
            seconds: how long at most.
            stopping: asked again and again; True ends the wait.

        Returns:
            False: nobody has asked for the keys. The files can be read when this node runs again, or from the vault.
        """
        self._await(lambda: self.is_handed_over() or stopping() or not self.alive(), seconds)
        return self.is_handed_over()

    def close(self) -> None:
        """Stop the exchange and give the node back, in at most some seconds, with or without a broker."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        worker = threading.Thread(target=self._machine.close, name="crypto-close", daemon=True)
        worker.start()
        worker.join(CLOSE_SECONDS)
        if worker.is_alive():
            log.info("KafkaCrypto's clients of node %s still close in the background.", self.node_id)
        self._store.close()
        self._claim.release()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _may_write_to(self, root: str) -> bool:
        from kafkacrypto.chain import multimatch

        if not self._certificate.may_write:
            return False
        return not self._certificate.topics or bool(multimatch(root, self._certificate.topics))

    def _is_expired(self, reread: bool = False) -> bool:
        now = time.monotonic()
        expires = self._certificate.expires
        expired = expires is not None and expires <= datetime.now(UTC)
        if (
            reread
            or now - self._certificate_read > CERTIFICATE_SECONDS
            or (expired and now - self._certificate_read > 1)
        ):
            self._certificate_read = now
            stored = (self._store.load_section("chains", defaults=False) or {}).values()
            self._certificate = chains.best(self.files, [one for one in stored if isinstance(one, bytes)])
            expires = self._certificate.expires
            expired = expires is not None and expires <= datetime.now(UTC)
        return expired

    def _refuse_expired(self) -> None:
        if self._is_expired():
            raise CryptoError(
                f"The certificate of node {self.node_id} expired on {self._certificate.expires:%Y-%m-%d %H:%M} UTC: no "
                "other node would accept its keys, so nothing is sent. Renew it with `openmsi-streams crypto renew`."
            )

    def _refuse_dead(self) -> None:
        if not self.alive():
            raise CryptoError(f"Nothing can be encrypted: {self.failure()}. Start the process again.")

    def _await(self, condition: Callable[[], bool], seconds: float) -> bool:
        limit = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > limit:
                return False
            time.sleep(0.01)
        return True

    def _on_turn(self) -> None:
        """Keep received data keys on disk, and take in those that `crypto recover` put there.

        Runs in the library's thread.
        """
        received = self._machine.received()
        count = sum(map(len, received.values()))
        if count != self._received:
            for root, keys in received.items():
                self.keyring.add(root, keys)
            self._received = count
        if time.monotonic() - self._keyring_read > KEYRING_SECONDS:
            self._keyring_read = time.monotonic()
            self.keyring.refresh()
