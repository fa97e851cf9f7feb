"""What a service is: a name, a command, where it runs and as whom. Kept in a file that only its owner reads."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from openmsi_streams.errors import ServiceError, UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")
_VARIABLE = re.compile(r"""^[^#\n]*?[=:]\s*["']?\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?["']?\s*(?:#.*)?$""", re.MULTILINE)


class Spec(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A service, independent of the system that runs it."""

    name: str
    command: list[str]
    """A command of openmsi-streams with its arguments, or any program's absolute path with its own."""
    workdir: str
    environment: dict[str, str] = {}
    """Values that the service needs; secrets among them, so the file is private."""
    run_as: str = ""
    """Account; empty: the one that installs it, or the system's own."""
    writable: list[str] = []
    """Folders that it writes to; everything else is read-only to it where the system can do that."""
    system: bool = False
    """A service of the machine, not of the person who is logged in."""
    changes_owners: bool = False
    """Whether it gives files to another account (`disk.owner`), for which a service of the machine needs a right."""

    @property
    def label(self) -> str:
        """The service's name in the system."""
        return f"openmsi-streams-{self.name}"

    @property
    def is_ours(self) -> bool:
        """Whether the command is one of openmsi-streams, which tells the system when it is ready and alive."""
        from openmsi_streams.cli import COMMANDS

        return self.command[0] in COMMANDS

    def arguments(self, python: str = sys.executable) -> list[str]:
        """Return the program and its arguments."""
        return [python, "-m", "openmsi_streams.services.run", *self.command] if self.is_ours else list(self.command)

    def save(self, path: Path) -> None:
        """Write it to a file that only its owner can read. Raises ServiceError."""
        write_private(path, msgspec.json.format(msgspec.json.encode(self), indent=1).decode() + "\n")


def read(path: Path) -> Spec:
    """Return a saved service. Raises ServiceError if there is none, or it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Spec)
    except FileNotFoundError:
        raise ServiceError(
            f"There is no service {path.stem!r} here. Services that are: {', '.join(names(path.parent)) or 'none'}. "
            "A service of the machine is found with --system, one of your own with --user."
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise ServiceError(f"{path} cannot be read: {error}. Check its owner, or install the service again.") from None


def names(folder: Path) -> list[str]:
    """Return the names of the services that are installed from here."""
    return sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []


def make(
    name: str,
    command: Sequence[str],
    *,
    system: bool = False,
    config: str | None = None,
    workdir: str | None = None,
    run_as: str = "",
    variables: Iterable[str] = (),
    writable: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Spec:
    """Return a service from what a person gave.

    Args:
        name: letters, digits, ``_``, ``.`` and ``-``.
        command: words after ``--``; ``openmsi-streams`` in front may be left out.
        system: a service of the machine.
        config: settings file, made known to the command; the variables that it names are kept with the service.
        workdir: folder that relative paths count from; None: the current one.
        run_as: account.
        variables: ``NAME=VALUE``, or ``NAME`` to take its value from the environment.
        writable: folders that it must be able to write to, beside those of the settings and the command.
        environment: where values come from; None: the process's own.

    Raises:
        UsageError: a name or command that cannot be, a variable without a value.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"A service cannot be called {name!r}. Use up to 60 letters, digits, '_', '.' and '-', e.g. xrd-room-2."
        )
    words = list(command)
    if words and Path(words[0]).name.removesuffix(".exe") == "openmsi-streams":
        words = words[1:]
    if not words:
        raise UsageError("No command was given. Write it after --, e.g.: ... install lab -- watch /data --topic lab")
    known = os.environ if environment is None else environment
    folder = Path(workdir or Path.cwd()).absolute()
    values: dict[str, str] = {}
    if config is not None:
        path = Path(config).absolute()
        if not path.is_file():
            raise UsageError(
                f"The configuration file {config!r} does not exist. Write one: openmsi-streams config init"
            )
        values["OPENMSI_STREAMS_CONFIG"] = str(path)
        for variable in variables_of(path):
            if variable in known:
                values[variable] = known[variable]
    for text in variables:
        variable, equals, value = text.partition("=")
        if not equals and variable not in known:
            raise UsageError(
                f"The variable {variable} has no value here. Write --env {variable}=VALUE, or set it first."
            )
        values[variable] = value if equals else known[variable]
    spec = Spec(name=name, command=words, workdir=str(folder), environment=values, run_as=run_as, system=system)
    if not spec.is_ours:
        _check_program(spec)
    folders, spec.changes_owners = _told_by(config, values)
    places = [*writable, *folders, *(word for word in words if (folder / word).is_dir())]
    spec.writable = sorted({str((folder / Path(place).expanduser()).absolute()) for place in places if place})
    return spec


def _check_program(spec: Spec) -> None:
    import shutil

    found = shutil.which(spec.command[0])
    if found is None:
        from openmsi_streams.cli import COMMANDS

        raise UsageError(
            f"{spec.command[0]!r} is neither a command of openmsi-streams ({', '.join(COMMANDS)}) nor a program here."
        )
    spec.command[0] = str(Path(found).absolute())


def variables_of(path: Path) -> list[str]:
    """Return the names of the variables that a settings file's values stand for."""
    return list(dict.fromkeys(_VARIABLE.findall(path.read_text(encoding="utf-8-sig", errors="replace"))))


def _told_by(config: str | None, values: Mapping[str, str]) -> tuple[list[str], bool]:
    """Return the folders that the settings name, and whether files change owners."""
    if config is None:
        return [], False
    from openmsi_streams.config.load import load
    from openmsi_streams.errors import ConfigurationError

    try:
        settings = load(config, environment={**os.environ, **values})
    except ConfigurationError as error:
        raise UsageError(f"{error} A service would stop with this at every start.") from None
    archive = settings.producer.when_delivered.partition("archive:")[2]
    folders = [settings.disk.root, settings.worker.data, settings.producer.state, archive]
    return folders, bool(settings.disk.owner)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read and write. Raises ServiceError that names the missing right."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise no_right(path, error) from None


def write_open(path: Path, text: str) -> None:
    """Write a file that all may read: it holds no secrets. Raises ServiceError that names the missing right."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
    except OSError as error:
        raise no_right(path, error) from None


def no_right(path: Path, error: OSError) -> ServiceError:
    """Return the error for a file that could not be written or removed."""
    cure = "Run it as root (sudo) or as Administrator for a service of the machine, or use --user for one of your own."
    if not isinstance(error, PermissionError):
        cure = "Check the disk and the folder."
    return ServiceError(f"No right to write {path} ({error.strerror}). {cure}")
