"""Identity and bytes: deterministic uids, text that fits GEMD's limits, and one way to write JSON.

Nothing here reads a clock, a host name or a random number: the same input gives the same bytes in every process.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Any

import msgspec

# gemd and openmsimodel look for this scope, and it sorts before the others we use, so that links stay stable when a
# record is loaded and written again (gemd links by the first scope it finds).
SCOPE = "auto"

# Limits of the written GEMD specification, in bytes of UTF-8; names are kept a little shorter.
NAME_BYTES = 120
TAG_BYTES = 256
ID_BYTES = 512
SCOPE_BYTES = 256
TAGS_MAX = 100
UIDS_MAX = 8

DEFAULT_NAMESPACE = "urn:openmsi-streams:gemd"

_encoder = msgspec.json.Encoder(order="sorted")


def namespace(seed: str) -> uuid.UUID:
    """Give the namespace that all uids of one laboratory grow from."""
    return uuid.uuid5(uuid.NAMESPACE_URL, clean(seed))


def uid(space: uuid.UUID, kind: str, *parts: str) -> str:
    """Give the version-5 UUID of a thing from its kind and what identifies it."""
    # NUL separates, so it must not occur inside a part: ("a", "b") and ("a\0b",) are different things.
    return str(uuid.uuid5(space, "\0".join(clean(part).replace("\0", "\\0") for part in (kind, *parts))))


def content_uid(space: uuid.UUID, kind: str, body: dict[str, Any]) -> str:
    """Give the uid of something whose content is its identity (templates, specs)."""
    return uid(space, kind, encode(body).decode())


def clean(text: str) -> str:
    """Give text that UTF-8 can hold: a lone surrogate (a file name in another encoding) becomes its escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def clip(text: str, limit: int) -> str:
    """Give text of at most ``limit`` bytes; a hash replaces the rest, so that texts stay different."""
    text = clean(text)
    data = text.encode()
    if len(data) <= limit:
        return text
    mark = "~" + hashlib.sha256(data).hexdigest()[:8]
    return data[: limit - len(mark)].decode("utf-8", "ignore") + mark


_breaks = re.compile(r"[\x00-\x1f\x7f]+")


def name(text: str) -> str:
    """Give a GEMD object name: no control characters, not empty, at most 120 bytes."""
    return clip(_breaks.sub(" ", text).strip() or "unnamed", NAME_BYTES)


def tag(key: str, value: str) -> str:
    """Give a ``key::value`` tag of at most 256 bytes."""
    return clip(f"{_breaks.sub(' ', key)}::{_breaks.sub(' ', value)}", TAG_BYTES)


def link(identifier: str, scope: str = SCOPE) -> dict[str, str]:
    """Give a GEMD link to an object by its uid."""
    return {"id": identifier, "scope": scope, "type": "link_by_uid"}


def encode(value: Any) -> bytes:
    """Give the one JSON form we write: sorted keys, no spaces, UTF-8."""
    return _encoder.encode(value)


def prune(body: dict[str, Any]) -> dict[str, Any]:
    """Leave out empty fields; gemd loads the pruned and the full form to equal objects."""
    return {key: value for key, value in body.items() if value is not None and value != [] and value != {}}


def document(context: list[bytes], roots: list[str]) -> bytes:
    """Join encoded objects to a document that gemd's loader reads; one root is given as itself, several as a list."""
    links = [encode(link(root)) for root in roots]
    root = links[0] if len(links) == 1 else b"[" + b",".join(links) + b"]"
    return b'{"context":[' + b",".join(context) + b'],"object":' + root + b"}"
