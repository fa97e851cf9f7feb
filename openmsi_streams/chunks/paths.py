"""Paths that come from messages, checked before anything uses them."""

from __future__ import annotations

import re
import unicodedata

from openmsi_streams.chunks.reasons import Reason, Unusable

# 255 bytes is the component limit of ext4, XFS and (in UTF-16 units) NTFS; room is left for our own suffixes.
MAX_COMPONENT_BYTES = 240
# S3 allows 1,024 bytes for a key, of which topic and prefix take some.
MAX_PATH_BYTES = 900
_DRIVE = re.compile(r"^[A-Za-z]:")
_RESERVED = re.compile(r"^(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$", re.IGNORECASE)
PARTIAL_FOLDER = ".partial"


def with_append(filename: str, append: str) -> str:
    """Return the name on the far side: ``append`` goes before the last suffix, as OpenMSIStream 1.x does."""
    if not append:
        return filename
    stem, dot, suffix = filename.rpartition(".")
    return f"{stem}{append}{dot}{suffix}" if stem else f"{filename}{append}"


def relative_path(filename: str, subdir: str, append: str = "") -> str:
    """Return the checked relative path, ``/`` between its parts.

    Raises:
        Unusable: if the path would leave the root or cannot exist on every system we store to.
    """
    name = with_append(filename, append)
    parts = subdir.split("/") if subdir not in ("", ".") else []
    for part in (*parts, name):
        problem = component_problem(part)
        if problem:
            raise Unusable(Reason.UNSAFE_PATH, f"The path {shown(subdir + '/' + name)} {problem}.")
    if parts and (parts[0] == PARTIAL_FOLDER or _DRIVE.match(parts[0])):
        raise Unusable(Reason.UNSAFE_PATH, f"The path {shown(subdir + '/' + name)} starts with {parts[0]!r}.")
    path = "/".join((*parts, name))
    if len(path.encode()) > MAX_PATH_BYTES:
        raise Unusable(Reason.UNSAFE_PATH, f"The path {shown(path)} is longer than {MAX_PATH_BYTES} bytes.")
    return path


def component_problem(part: str) -> str:
    """Return what is wrong with one component of a path, or an empty string."""
    if part in ("", ".", ".."):
        return f"has the component {part!r}"
    if "/" in part or "\\" in part:
        return "has a separator inside a name"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in part):
        return "has a control character or half of a surrogate pair"
    if any(c in '<>:"|?*' for c in part):
        return "has a character that Windows refuses"
    if part[-1] in " .":
        return "has a name that ends in a space or a dot, which Windows drops"
    if _RESERVED.match(part):
        return f"has the reserved Windows name {part!r}"
    if len(part.encode()) > MAX_COMPONENT_BYTES:
        return f"has a name longer than {MAX_COMPONENT_BYTES} bytes"
    return ""


def shown(path: str, limit: int = 120) -> str:
    """Return a path for a message: escaped and cut, since it may be hostile."""
    text = ascii(path) if any(unicodedata.category(c)[0] == "C" for c in path) else repr(path)
    return text if len(text) <= limit else text[: limit - 1] + "…"
