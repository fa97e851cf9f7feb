"""What happens to a file once it is proved to be delivered: kept, put into an archive, or deleted."""

from __future__ import annotations

import os
import shutil
from hashlib import sha512
from pathlib import Path

import msgspec

from openmsi_streams.errors import ConfigurationError
from openmsi_streams.producers import system
from openmsi_streams.producers.content import Changed

ARCHIVE = "archive:"


class Policy(msgspec.Struct, frozen=True):
    """``keep``, ``delete`` or ``archive`` with its folder."""

    kind: str
    folder: Path | None = None

    @classmethod
    def parse(cls, text: str, root: Path | None = None) -> Policy:
        """Read ``keep``, ``delete`` or ``archive:DIR``.

        Raises:
            ConfigurationError: anything else, or an archive inside the watched folder.
        """
        if text in ("keep", "delete"):
            return cls(text)
        folder = text[len(ARCHIVE) :] if text.startswith(ARCHIVE) else ""
        if not folder:
            raise ConfigurationError(
                f"when_delivered = {text!r} is not known. Use `keep`, `delete` or `archive:DIR` with a folder."
            )
        path = Path(folder).expanduser().absolute()
        if root is not None and path.is_relative_to(root):
            raise ConfigurationError(
                f"The archive {path} lies inside the watched folder: its files would be sent again. Choose another."
            )
        return cls("archive", path)


def clean(policy: Policy, source: Path, path: str, size: int, mtime_ns: int, digest: str) -> str:
    """Archive or delete a file if it still has the content that was delivered; say in words what was done.

    The whole file is hashed once more: size and time alone do not prove that nothing changed.

    Args:
        policy: what to do.
        source: the file. path: its relative path, kept in the archive.
        size, mtime_ns, digest: what the delivered version had; ``digest`` is the hex SHA-512.

    Raises:
        Changed: it is not that version any more; nothing was done.
        OSError: it cannot be read, moved or removed.
    """
    name = system.long_path(source)
    _check_stat(name, size, mtime_ns)
    whole = sha512()
    with system.open_shared(source) as file:
        while block := file.read(1 << 20):
            whole.update(block)
    if whole.hexdigest() != digest:
        raise Changed
    if policy.kind == "delete":
        _check_stat(name, size, mtime_ns)
        os.unlink(name)
        return "deleted"
    assert policy.folder is not None
    target = _free_name(policy.folder / path, digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_stat(name, size, mtime_ns)
    try:
        os.rename(name, system.long_path(target))
    except OSError:
        # Another drive: copy, make sure it is there, then remove.
        part = target.with_name(target.name + ".part")
        shutil.copy2(name, system.long_path(part))
        with open(system.long_path(part), "rb+") as copy:
            if sha512(copy.read()).hexdigest() != digest if size <= 1 << 20 else _digest(copy) != digest:
                raise Changed from None
            os.fsync(copy.fileno())
        os.replace(system.long_path(part), system.long_path(target))
        _check_stat(name, size, mtime_ns)
        os.unlink(name)
    return f"archived as {target}"


def _digest(file: object) -> str:
    whole = sha512()
    while block := file.read(1 << 20):  # type: ignore[attr-defined]
        whole.update(block)
    return whole.hexdigest()


def _free_name(target: Path, digest: str) -> Path:
    """An archive keeps older versions: a name that is taken gets the first digits of the hash."""
    if not os.path.lexists(system.long_path(target)):
        return target
    return target.with_name(f"{target.stem}.{digest[:12]}{target.suffix}")


def _check_stat(name: str, size: int, mtime_ns: int) -> None:
    found = os.stat(name)
    if (found.st_size, found.st_mtime_ns) != (size, mtime_ns):
        raise Changed
