"""What a processor sees and gives back."""

from __future__ import annotations

import fnmatch
import mimetypes
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import msgspec

from openmsi_streams.errors import ConfigurationError, OpenMSIStreamsError

SCHEMA = "openmsi_streams.result/1"
# A file beside the original has a name that every store takes; S3 servers that keep plain files stop at 255 bytes.
MAX_NAME_BYTES = 255


class NotNow(OpenMSIStreamsError):
    """A processor raises it when what it needs is away for the moment; the file is tried again later."""


class RejectFile(OpenMSIStreamsError):
    """A processor raises it for a file that it will never be able to use; it goes to quarantine at once."""


@dataclass(frozen=True, slots=True)
class DeliveredFile:
    """A whole file whose hash was checked, on this machine's disk for as long as the function runs."""

    path: Path
    """Where the bytes are; read only."""
    topic: str
    relative: str
    """Path below the folder that the instrument's producer watches, ``/`` between its parts."""
    sha512: str
    """Of the whole file, in hex."""
    size: int
    """Bytes."""
    file_id: str
    mtime: float | None = None
    """Modification time at the instrument, seconds since the epoch."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What the producer put on the file, e.g. a sample's name."""
    urls: tuple[str, ...] = ()
    """Where the file was stored."""
    out: Path = Path()
    """An empty folder for the files that the function makes; it is removed afterwards."""

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(self.relative).name

    def open(self) -> IO[bytes]:
        """Return a stream of the file's bytes."""
        return self.path.open("rb")

    def beside(self, ending: str) -> Path:
        """Return where to write a file that is to be stored as ``<name>.<ending>`` beside the original."""
        return self.out / f"{self.name}.{ending.lstrip('.')}"


@dataclass(slots=True)
class Result:
    """What a processor gives back; every part may be left out."""

    files: Iterable[Path] | Mapping[str, bytes | str] = ()
    """Files to store beside the original: paths below ``DeliveredFile.out``, or names with their content."""
    json: Any = None
    """Anything that JSON can hold; it goes to a topic, keyed by file and processor, so that a repeat replaces it."""
    topic: str = ""
    """Topic for ``json``; empty: ``<topic>.results``."""
    record: dict[str, Any] | None = None
    """Facts for the file's GEMD record, in the words of the lab's mapping file."""


Function = Callable[[DeliveredFile], Any]


@dataclass(frozen=True, slots=True)
class Processor:
    """A function and the files that it is for; calling it calls the function."""

    function: Function
    name: str
    topics: tuple[str, ...] = ()
    match: tuple[str, ...] = ("*",)
    time_limit: float | None = None
    """Seconds for one file; None: `processors.time_limit`."""
    memory_limit: int | None = None
    """Bytes; None: `processors.memory_limit`."""
    version: str = ""
    """Goes into each result, so that results of an older version can be told."""

    def __call__(self, file: DeliveredFile) -> Any:
        return self.function(file)

    @property
    def reference(self) -> str:
        """``module:name``, by which the process that runs it finds it."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    def wants(self, topic: str, relative: str) -> bool:
        """Return whether a file is for this function.

        Patterns are compared without case: Windows instruments write ``.CSV`` as well as ``.csv``. A pattern with a
        ``/`` is compared with the whole path, any other with the file's name.
        """
        if self.topics and not any(fnmatch.fnmatchcase(topic, pattern) for pattern in self.topics):
            return False
        path, name = relative.lower(), PurePosixPath(relative).name.lower()
        return any(fnmatch.fnmatchcase(path if "/" in one else name, one.lower()) for one in self.match)


def processor(
    *,
    topic: str | Iterable[str] = (),
    match: str | Iterable[str] = "*",
    name: str = "",
    time_limit: float | None = None,
    memory_limit: int | None = None,
    version: str = "",
) -> Callable[[Function], Processor]:
    """Make a function a processor.

    Args:
        topic: chunk topics whose files it is for, as names or patterns; nothing: all.
        match: patterns like ``*.csv`` or ``run_*/raw/*``.
        name: how it is called in results and messages; nothing: the function's name.
        time_limit: seconds for one file.
        memory_limit: bytes.
        version: any text; change it when results change.

    Raises:
        ConfigurationError: the function cannot be found by its name from another process.
    """

    def make(function: Function) -> Processor:
        if "<" in function.__qualname__ or function.__module__ == "__main__":
            raise ConfigurationError(
                f"The processor {function.__qualname__} cannot be imported by its name. Define it at the top level of "
                "a module of your package, not in a function or a script."
            )
        return Processor(
            function,
            name or function.__name__,
            (topic,) if isinstance(topic, str) and topic else tuple(topic),
            (match,) if isinstance(match, str) else tuple(match),
            time_limit,
            memory_limit,
            version,
        )

    return make


# -- what has been checked -------------------------------------------------------------------------------------------


class ProducedFile(msgspec.Struct, frozen=True):
    """A file to be stored beside the original."""

    name: str
    path: str
    content_type: str
    size: int

    def read(self) -> bytes:
        """Return its bytes."""
        return Path(self.path).read_bytes()


class Produced(msgspec.Struct, frozen=True):
    """A result that was checked: names that every store takes, JSON that is JSON."""

    files: tuple[ProducedFile, ...] = ()
    json: str = ""
    """The JSON text, with sorted keys; empty: none."""
    topic: str = ""
    record: dict[str, Any] | None = None


class Nonsense(OpenMSIStreamsError):
    """A processor returned something that is not a result."""


def settle(returned: Any, out: Path, original: str) -> Produced:
    """Turn what a function returned into a checked result; contents given as bytes are written to ``out``.

    Args:
        returned: None, a `Result`, a dictionary (its JSON), a path, or a list of paths.
        out: the folder that the function was given.
        original: the delivered file's own name.

    Raises:
        Nonsense: with what is wrong and what is possible.
    """
    result = _as_result(returned)
    files: list[ProducedFile] = []
    for name, path in _files(result, out):
        if name.casefold() == original.casefold():
            raise Nonsense(f"The file {name!r} would take the place of the original. Use file.beside('...').")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        files.append(ProducedFile(name, str(path), kind, path.stat().st_size))
    text = ""
    if result.json is not None:
        try:
            text = msgspec.json.encode(result.json, enc_hook=_plain, order="deterministic").decode()
        except (TypeError, ValueError, RecursionError) as error:
            raise Nonsense(
                f"Result.json cannot be written as JSON: {error}. Use numbers, text, lists, tables."
            ) from None
    if result.record is not None and not isinstance(result.record, dict):
        raise Nonsense(f"Result.record must be a dictionary, not {type(result.record).__name__}.")
    if not isinstance(result.topic, str):
        raise Nonsense(f"Result.topic must be text, not {type(result.topic).__name__}.")
    record = None if result.record is None else msgspec.to_builtins(result.record, enc_hook=_plain)
    return Produced(tuple(files), text, result.topic, record)


def _as_result(returned: Any) -> Result:
    if returned is None:
        return Result()
    if isinstance(returned, Result):
        return returned
    if isinstance(returned, dict):
        return Result(json=returned)
    if isinstance(returned, Path):
        return Result(files=[returned])
    if isinstance(returned, list | tuple) and returned and all(isinstance(one, Path) for one in returned):
        return Result(files=returned)
    raise Nonsense(
        f"It returned a {type(returned).__name__}. Return nothing, a Result, a dictionary, a path or a list of paths."
    )


def _files(result: Result, out: Path) -> Iterable[tuple[str, Path]]:
    if isinstance(result.files, Mapping):
        for name, content in result.files.items():
            if not isinstance(content, bytes | str):
                raise Nonsense(f"The content of {name!r} must be bytes or text, not {type(content).__name__}.")
            target = out / _checked(str(name))
            target.write_bytes(content.encode() if isinstance(content, str) else content)
            yield target.name, target
        return
    if isinstance(result.files, str | bytes | Path):
        raise Nonsense("Result.files must be a list of paths, or a table of names and contents.")
    for path in result.files:
        path = Path(path)
        if not path.is_absolute():
            path = out / path
        real = path.resolve()
        if not real.is_relative_to(out.resolve()) or not real.is_file():
            raise Nonsense(f"{path} is not a file below file.out. Write there what is to be stored.")
        yield _checked(path.name), real


def _checked(name: str) -> str:
    legal = name and name not in (".", "..") and not set(name) & set('/\\:*?"<>|') and name.isprintable()
    if not legal or len(name.encode()) > MAX_NAME_BYTES:
        raise Nonsense(f"{name[:80]!r} is not a file name that every store takes.")
    return name


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, without importing NumPy."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def message(by: Processor, file: DeliveredFile, produced: Produced) -> tuple[str, bytes, bytes]:
    """Return topic, key and value of the message with a result's JSON; the same result gives the same bytes."""
    value = {
        "schema": SCHEMA,
        "processor": by.name,
        "version": by.version,
        "file_id": file.file_id,
        "topic": file.topic,
        "path": file.relative,
        "sha512": file.sha512,
        "result": msgspec.Raw(produced.json.encode() or b"null"),
    }
    topic = produced.topic or f"{file.topic}.results"
    return topic, f"{file.file_id}.{by.name}".encode(), msgspec.json.encode(value)
