"""Which files are sent: include and exclude patterns, each skip with the rule that made it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

from openmsi_streams.errors import ConfigurationError

REGEX = "re:"

# Left out unless an include pattern asks for them. Anchored, so that `catalog.csv` and `Morphology.tif` are sent.
DEFAULT_EXCLUDE: tuple[str, ...] = (
    ".*",  # hidden files and folders
    "~$*",  # lock files of office programs
    "*.tmp",
    "*.temp",
    "*.part",
    "*.partial",
    "*.crdownload",
    "*.swp",
    "*~",
    "*.log",  # as OpenMSIStream: logs grow for ever and are not data
    "Thumbs.db",
    "desktop.ini",
    "LOGS/",  # OpenMSIStream's own folder in a watched tree
)


class Pattern:
    """One pattern: a glob, or a regular expression after ``re:``.

    A glob without ``/`` is compared with each part of the path (so a folder's name leaves out all below it); one that
    ends in ``/`` with folders alone; one with ``/`` inside with the whole relative path. Letters' case is ignored.
    A regular expression is matched from the start of the relative path, as OpenMSIStream's ``--upload_regex``.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = self._folders = False
        try:
            if text.startswith(REGEX):
                self._match = re.compile(text[len(REGEX) :]).match
                return
            glob = text.replace("\\", "/")
            self._folders = glob.endswith("/")
            glob = glob.rstrip("/")
            self._parts = "/" not in glob
            self._match = re.compile(translate(glob.lstrip("/")), re.IGNORECASE).match
        except re.error as error:
            raise ConfigurationError(f"The pattern {text!r} is not a regular expression: {error}. Mend it.") from None

    def matches(self, path: str, *, parents: bool = True) -> bool:
        """Say whether a relative path (``/`` between parts) matches; ``parents=False`` looks at the name alone."""
        if self._folders:
            above = path.split("/")[:-1]
            if self._parts:
                return any(self._match(part) for part in above)
            return any(self._match("/".join(above[:n])) for n in range(1, len(above) + 1))
        if self._parts:
            parts = path.split("/")
            return any(self._match(part) for part in (parts if parents else parts[-1:]))
        return bool(self._match(path))


class Filter:
    """Decides for each relative path; with no include pattern all files are sent but those of the defaults."""

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = [Pattern(text) for text in include]
        # Who names what to send may name a log or a hidden file: then the defaults would stand in the way.
        self._exclude = [Pattern(text) for text in (*exclude, *(() if self._include else DEFAULT_EXCLUDE))]

    def why_not(self, path: str) -> str:
        """Return the rule that leaves this path out, in words, or an empty string if it is sent."""
        for pattern in self._exclude:
            if pattern.matches(path):
                return f"excluded by {pattern.text!r}"
        if self._include and not any(pattern.matches(path, parents=False) for pattern in self._include):
            return "matches no include pattern"
        return ""
