"""Object keys: made from a template, safe in URLs, and turned back into topic and path."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from openmsi_streams.chunks.paths import shown
from openmsi_streams.errors import StoreError

# Beside letters, digits and "_.-~", which `quote` leaves, these are on Amazon's list of safe characters for keys.
_SAFE = "*'()"
# What starts an escape: `!20` for a space. It is on that list too. A percent sign would be escaped once more in every
# URL, and there are servers and proxies that then decode twice and find another object, or none.
_ESCAPE = "!"
# S3's limit for a key, in bytes of UTF-8.
MAX_KEY_BYTES = 1024
# Servers that keep objects as files (MinIO, Ceph's POSIX driver, nanio) refuse longer names between two slashes.
_MAX_PART_BYTES = 255
_FIELD = re.compile(r"\{(\w+)\}")
_PATTERNS = {
    "topic": r"(?P<topic>[^/]+)",
    "subdir": r"(?P<subdir>.+)",
    "filename": r"(?P<filename>[^/]+)",
    "path": r"(?P<path>.+)",
}


class KeyTemplate:
    """A template like ``{topic}/{subdir}/{filename}`` or ``lab/{topic}/{path}``."""

    def __init__(self, template: str, only_topic: str = "") -> None:
        """Check the template.

        Args:
            template: text with the fields ``topic``, ``subdir``, ``filename``, ``path``.
            only_topic: the one topic that the store takes; then ``{topic}`` may be left out.

        Raises:
            StoreError: an unknown field, or a key would not tell topic and path.
        """
        self.template = template
        self.only_topic = only_topic
        fields = _FIELD.findall(template)
        unknown = set(fields) - set(_PATTERNS)
        if unknown or len(set(fields)) != len(fields):
            raise StoreError(
                f"The S3 key template {template!r} has fields that are unknown or used twice; known are "
                f"{', '.join('{' + name + '}' for name in _PATTERNS)}."
            )
        whole = "path" in fields or {"subdir", "filename"} <= set(fields)
        if not whole or ("topic" not in fields and not only_topic):
            raise StoreError(
                f"The S3 key template {template!r} would give different files the same key. Use "
                "'{topic}/{subdir}/{filename}' or '{topic}/{path}'; {topic} may be left out for a store of one topic."
            )
        pattern = ""
        place = 0
        for found in _FIELD.finditer(template):
            pattern += re.escape(template[place : found.start()]) + _PATTERNS[found[1]]
            place = found.end()
        pattern += re.escape(template[place:])
        # A file in the root has no folder: the field goes together with the slash behind it.
        self._pattern = re.compile(pattern.replace(r"(?P<subdir>.+)/", r"(?:(?P<subdir>.+)/)?"))
        for sample in ("a.b", "s/a.b", "s/t/u/a.b"):
            if self.place(self.key(only_topic or "topic", sample)) != (only_topic or "topic", sample):
                raise StoreError(
                    f"The S3 key template {template!r} cannot be turned back into topic and path. Put a slash between "
                    "its fields, e.g. '{topic}/{subdir}/{filename}'."
                )

    def key(self, topic: str, relative: str) -> str:
        """Return the key of a file.

        Raises:
            StoreError: if it is longer than S3 allows.
        """
        parts = [_quoted(part) for part in relative.split("/")]
        values = {
            "topic": _quoted(topic),
            "subdir": "/".join(parts[:-1]),
            "filename": parts[-1],
            "path": "/".join(parts),
        }
        template = self.template if values["subdir"] else self.template.replace("{subdir}/", "{subdir}")
        key = _FIELD.sub(lambda found: values[found[1]], template).lstrip("/")
        if len(key.encode()) > MAX_KEY_BYTES:
            key = _unescaped_wide(key)
        if len(key.encode()) > MAX_KEY_BYTES:
            raise StoreError(
                f"The file {shown(relative)} has a key of {len(key.encode())} bytes; S3 allows {MAX_KEY_BYTES}. "
                "Shorten the path or the template s3.NAME.key."
            )
        return key

    def place(self, key: str) -> tuple[str, str] | None:
        """Return topic and relative path of a key, or None if the template cannot have made it."""
        found = self._pattern.fullmatch(key)
        if found is None:
            return None
        groups = found.groupdict()
        topic = _unescaped(groups["topic"]) if groups.get("topic") else self.only_topic
        if groups.get("path"):
            return topic, _unescaped(groups["path"])
        folder = groups.get("subdir")
        return topic, _unescaped(f"{folder}/{groups['filename']}" if folder else groups["filename"])

    def prefix(self, topic: str) -> str:
        """Return the longest beginning that all keys of a topic share."""
        first = self.template.split("{", 1)[0].lstrip("/")
        if self.template.lstrip("/").startswith(first + "{topic}"):
            rest = self.template.split("{topic}", 1)[1]
            return first + _quoted(topic) + ("/" if rest.startswith("/") else "")
        return first


def _quoted(part: str) -> str:
    quoted = quote(part, safe=_SAFE).replace("%", _ESCAPE)
    return quoted if len(quoted) <= _MAX_PART_BYTES else _unescaped_wide(quoted)


def _unescaped(text: str) -> str:
    return unquote(text.replace("%", "%25").replace(_ESCAPE, "%"))


def _unescaped_wide(text: str) -> str:
    """Return a key with only its ASCII escapes left: three times shorter for other scripts, and as reversible."""
    return re.sub(rf"(?:{_ESCAPE}[89A-F][0-9A-F])+", lambda found: _unescaped(found[0]), text)
