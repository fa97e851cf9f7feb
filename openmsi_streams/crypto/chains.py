"""Certificate chains: what a node may do and until when. The checking is kafkacrypto's."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from openmsi_streams.crypto import library
from openmsi_streams.crypto.files import Certificate, NodeFiles, text_of
from openmsi_streams.errors import CryptoError


def pack(value: Any) -> bytes:
    """Return msgpack as kafkacrypto writes it."""
    import msgpack  # type: ignore[import-untyped,unused-ignore]

    library.load()
    from kafkacrypto.utils import msgpack_default_pack

    packed: bytes = msgpack.packb(value, default=msgpack_default_pack, use_bin_type=True)
    return packed


def unpack(data: bytes) -> Any:
    """Return the content of msgpack with names as bytes."""
    import msgpack

    return msgpack.unpackb(data, raw=True)


def read(chain: bytes, roots: Iterable[bytes], denied: Iterable[bytes] = (), *, at: float | None = None) -> Certificate:
    """Check a chain against trusted roots and return what it allows.

    Args:
        chain: as stored in a node file.
        roots: trusted roots.
        denied: keys that are not trusted any more.
        at: the time to check expiry for, seconds since the epoch; None: expiry is not checked, only returned.

    Raises:
        CryptoError: the chain does not lead to a trusted root, or has expired.
    """
    library.load()
    from kafkacrypto.chain import ProcessChainError, process_chain

    try:
        found, _, _ = process_chain(
            chain, None, None, allowlist=list(roots), denylist=list(denied), checktime=lambda: 0.0 if at is None else at
        )
    except ProcessChainError as error:
        raise CryptoError(
            f"The certificate chain leads to no trusted root or has expired ({_last(error)}). Renew it with "
            "`openmsi-streams crypto renew`, with the authority that this node trusts."
        ) from None
    limits = {text_of(name): value for name, value in unpack(found[1])}
    expires = float(found[0])
    return Certificate(
        expires=datetime.fromtimestamp(expires, UTC) if expires else None,
        topics=tuple(text_of(one) for one in limits.get("topics", ())),
        usages=tuple(text_of(one) for one in limits.get("usages", ())),
    )


def best(files: NodeFiles, stored: Iterable[bytes] | None = None) -> Certificate:
    """Return what the longest-living valid chain of a node allows, expired or not.

    Raises:
        CryptoError: none leads to a trusted root.
    """
    found: list[Certificate] = []
    problem: CryptoError | None = None
    for chain in files.chains if stored is None else stored:
        try:
            found.append(read(chain, files.roots.values(), files.denied))
        except CryptoError as error:
            problem = error
    if not found:
        raise problem or CryptoError(f"{files.config} has no certificate chain. Provision the node.")
    forever = datetime.max.replace(tzinfo=UTC)
    return max(found, key=lambda one: one.expires or forever)


def _last(error: BaseException) -> str:
    printable = getattr(error, "printable", None)
    return str(printable[-1]) if printable else str(error)
