"""The fenced blocks of the documentation, and the commands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "bench/*.md", "deploy/**/*.md", "changelog.d/*.md")
    for path in ROOT.glob(pattern)
)

# The language at a block's fence says how the block is tested; CONTRIBUTING.md tells it to people.
LANGUAGES = {
    "sh": "run by tests/broker/docs in an empty home folder, line by line",
    "bat": "the same; folders of Windows become folders of the home folder",
    "python": "run",
    "toml": "loaded as what its tables say: settings, a mapping of records, entry points",
    "yaml": "loaded, and held against the worker's metrics address",
    "json": "held against what the program really writes",
    "text": "a picture or a synopsis; holds no command that could be run",
}

# Commands that cannot run here, as regular expressions of the whole line, with the reason. tests/unit/docs checks
# what can be checked without running them, and that each of these is still needed.
NOT_HERE = {
    r"make (demo|test|venv|lint types test docs|bench|test-kafka)": "makes an environment from a package index",
    r"\.venv/bin/python bench/run\.py( .*)?": "measures for up to an hour",
    r"(py -m |/opt/openmsi-streams/bin/)?pip install .*": "takes packages from a package index",
    r"python3 -m venv /opt/openmsi-streams": "writes to /opt, as root; only of use with the line after it",
    r"docker compose .*": "needs a Docker daemon and images from a registry",
    r"journalctl --unit \S+ --follow": "needs systemd's journal",
    r"openmsi-streams demo( --camera-mb 1000 --once)?": "tests/broker/demo runs it, with fewer bytes",
}


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    page: Path
    number: int
    """Which of the page's blocks it is, from 0."""
    line: int
    language: str
    text: str
    """Without the indentation of its fence."""
    made: bool
    """Stands in a part that is made from the code."""

    @property
    def name(self) -> str:
        """Where it is, for people and for the names of tests."""
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks(*languages: str, page: Path | None = None) -> Iterator[Block]:
    """Yield the blocks of all pages, or of one, in order; with ``languages`` only those."""
    for path in PAGES if page is None else [page]:
        text = path.read_text(encoding="utf-8")
        for number, match in enumerate(FENCE.finditer(text)):
            before = text[: match.start()]
            made = before.count("<!-- made from the code") > before.count("<!-- end of what is made")
            body = "\n".join(line.removeprefix(match["indent"]) for line in match["text"].splitlines())
            if not languages or match["language"] in languages:
                yield Block(path, number, before.count("\n") + 1, match["language"], body, made)


def commands(text: str) -> list[str]:
    """Return the commands of a block: lines without comments, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [line for line in (re.sub(r"(^|\s+)#.*$", "", one).strip() for one in joined.splitlines()) if line]


def cannot_run(command: str) -> str:
    """Return why a command cannot run in the tests; empty if it can."""
    return next((reason for pattern, reason in NOT_HERE.items() if re.fullmatch(pattern, command)), "")


def hold(shown: Any, real: Any, where: str = "") -> None:
    """Hold a JSON document that a page shows against a real one: its names are there, with values of the same type."""
    if isinstance(shown, dict):
        assert isinstance(real, dict) and set(shown) <= set(real), (where, real)
        for name in shown:
            hold(shown[name], real[name], f"{where}.{name}")
    elif isinstance(shown, list):
        # One that is of the same class, where things have classes.
        alike = [one for one in real if one.get("class") == shown[0].get("class")]
        assert alike, where
        hold(shown[0], alike[0], f"{where}[]")
    else:
        assert isinstance(real, type(shown)) or {type(real), type(shown)} == {int, float}, (where, shown, real)


def without_blocks(text: str) -> str:
    """Return a page's prose."""
    return FENCE.sub("", text)
