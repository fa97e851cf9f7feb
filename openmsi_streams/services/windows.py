"""Services of Windows, through a wrapper (WinSW or NSSM): a Python program cannot answer the service controller itself.

Words and secrets are in the service's own file, which the wrapper's command line only names: so nothing has to be
quoted twice, and no secret stands in the registry, where every user can read it. Not run on Windows by this project's
tests; files and command lines are compared with recorded expectations.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path, PureWindowsPath
from xml.sax.saxutils import escape

from openmsi_streams.errors import ServiceError
from openmsi_streams.services import spec as specs
from openmsi_streams.services.calls import Run, must, run
from openmsi_streams.services.manage import Manager, State
from openmsi_streams.services.spec import Spec
from openmsi_streams.services.systemd import RESTART_SECONDS, STOP_SECONDS

WHERE = {
    "winsw": "https://github.com/winsw/winsw/releases (WinSW-x64.exe)",
    "nssm": "https://nssm.cc/download",
}
# The groups by their numbers: their names differ between languages of Windows.
SYSTEM, ADMINISTRATORS = "*S-1-5-18", "*S-1-5-32-544"
# Ten megabytes of log, five times: enough to see what happened, small on any disk.
LOG_BYTES, LOG_FILES = 10 << 20, 5


def windows_manager(*, root: Path | None = None, wrapper: str = "", call: Run = run) -> Windows:
    """Return the manager for a wrapper: its path, its name, or whichever is found.

    Raises:
        ServiceError: neither is found; says where they are.
    """
    for kind, candidates in (("winsw", ("winsw", "WinSW-x64", "WinSW.NET4")), ("nssm", ("nssm",))):
        if wrapper and kind not in PureWindowsPath(wrapper).name.lower():
            continue
        for name in (wrapper, *candidates) if wrapper else candidates:
            found = shutil.which(name) or (name if name and Path(name).is_file() else None)
            if found:
                return (WinSW if kind == "winsw" else Nssm)(root=root, program=found, call=call)
    raise ServiceError(
        "A service of Windows needs WinSW or NSSM, and neither is on the PATH. Get one: "
        + " or ".join(WHERE.values())
        + "; then name it with --wrapper PATH."
    )


class Windows(Manager):
    """What both wrappers share: the folder, its rights, and the service controller."""

    def __init__(self, *, root: Path | None = None, program: str, call: Run = run) -> None:
        super().__init__(system=True, root=root, call=call)
        self.program = program

    @property
    def folder(self) -> Path:
        """Where specs, wrappers and logs are kept."""
        base = Path(os.environ.get("PROGRAMDATA", "C:/ProgramData"))
        return (base if self.root is None else self.root) / "openmsi-streams" / "services"

    def command_line(self, spec: Spec) -> list[str]:
        """Return the program and arguments that the wrapper starts."""
        return [sys.executable, "-m", "openmsi_streams.services.run", "--spec", str(self.record(spec.name))]

    def close(self, path: Path, run_as: str) -> None:
        """Let only the system, administrators and the service's account read a file."""
        grants = [f"{SYSTEM}:F", f"{ADMINISTRATORS}:F", *([f"{run_as}:R"] if run_as else [])]
        must(self.call, "icacls", str(path), "/inheritance:r", *(word for one in grants for word in ("/grant:r", one)))

    def _write(self, spec: Spec) -> None:
        record = self.record(spec.name)
        # First the closed, empty file, then the secrets.
        specs.write_private(record, "")
        self.close(record, spec.run_as)
        for path, text in self.files(spec).items():
            specs.write_open(path, text)
        record.write_text(_spec_text(spec), encoding="utf-8")

    def start(self, spec: Spec) -> None:
        """Start it through the service controller."""
        answer = self.call(("sc.exe", "start", spec.label))
        # 1056: an instance runs already.
        if answer.code not in (0, 1056):
            must(lambda _: answer, "sc.exe", "start", spec.label)

    def stop(self, spec: Spec) -> None:
        """Stop it through the service controller; the wrapper sends Ctrl-C and waits."""
        answer = self.call(("sc.exe", "stop", spec.label))
        # 1062: it was not started.
        if answer.code not in (0, 1062):
            must(lambda _: answer, "sc.exe", "stop", spec.label)

    def state(self, spec: Spec) -> State:
        """Ask the service controller."""
        text = must(self.call, "sc.exe", "queryex", spec.label)
        told = {}
        for line in text.splitlines():
            key, colon, value = line.partition(":")
            if colon:
                told[key.strip()] = value.split()
        number, word = (*told.get("STATE", ["0", "UNKNOWN"]), "UNKNOWN")[:2]
        pid = (told.get("PID") or ["0"])[0]
        start = must(self.call, "sc.exe", "qc", spec.label)
        return State(number in ("2", "4"), word, int(pid) if pid.isdigit() else 0, "AUTO_START" in start)


def _spec_text(spec: Spec) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(spec), indent=1).decode() + "\n"


class Nssm(Windows):
    """NSSM keeps the command in the registry and is set key by key."""

    def files(self, spec: Spec) -> dict[Path, str]:
        """None."""
        return {}

    def register(self, spec: Spec) -> None:
        """Install and set it."""
        for words in self.calls(spec):
            must(self.call, *words)

    def calls(self, spec: Spec) -> list[list[str]]:
        """Return the calls that install a service."""
        program, *arguments = self.command_line(spec)
        log = str(self.folder / f"{spec.name}.log")
        # NSSM joins further words with blanks and quotes nothing: the line is made here, as one word.
        line = subprocess.list2cmdline(arguments)
        settings: list[tuple[str, ...]] = [
            ("AppParameters", line),
            ("AppDirectory", spec.workdir),
            ("DisplayName", f"openmsi-streams {spec.name}"),
            ("Description", f"openmsi-streams {spec.command[0]}"),
            ("Start", "SERVICE_DELAYED_AUTO_START"),
            ("AppStdout", log),
            ("AppStderr", log),
            ("AppRotateFiles", "1"),
            ("AppRotateOnline", "1"),
            ("AppRotateBytes", str(LOG_BYTES)),
            ("AppStopMethodConsole", str(STOP_SECONDS * 1000)),
            ("AppExit", "Default", "Restart"),
            # 2 is a wrong setting: it does not get better by itself.
            ("AppExit", "2", "Exit"),
            ("AppRestartDelay", str(RESTART_SECONDS * 1000)),
        ]
        if spec.run_as:
            settings.append(("ObjectName", spec.run_as))
        return [
            [self.program, "install", spec.label, program],
            *([self.program, "set", spec.label, *words] for words in settings),
        ]

    def unregister(self, spec: Spec) -> None:
        """Remove it from the registry."""
        must(self.call, self.program, "remove", spec.label, "confirm")


class WinSW(Windows):
    """WinSW is a program that reads the XML file of its own name."""

    def executable(self, spec: Spec) -> Path:
        """Return the wrapper's copy for this service."""
        return self.folder / f"{spec.label}.exe"

    def files(self, spec: Spec) -> dict[Path, str]:
        """The XML file; it holds no secret."""
        return {self.folder / f"{spec.label}.xml": self.xml(spec)}

    def xml(self, spec: Spec) -> str:
        """Return the XML text."""
        program, *arguments = self.command_line(spec)
        account = (
            f"\n  <serviceaccount><username>{escape(spec.run_as)}</username></serviceaccount>\n" if spec.run_as else ""
        )
        return f"""<service>
  <id>{escape(spec.label)}</id>
  <name>openmsi-streams {escape(spec.name)}</name>
  <description>openmsi-streams {escape(spec.command[0])}</description>
  <executable>{escape(program)}</executable>
  <arguments>{escape(subprocess.list2cmdline(arguments))}</arguments>
  <workingdirectory>{escape(spec.workdir)}</workingdirectory>
  <startmode>Automatic</startmode>
  <delayedAutoStart>true</delayedAutoStart>
  <onfailure action="restart" delay="{RESTART_SECONDS} sec"/>
  <resetfailure>1 hour</resetfailure>
  <stoptimeout>{STOP_SECONDS} sec</stoptimeout>
  <log mode="roll-by-size"><sizeThreshold>{LOG_BYTES >> 10}</sizeThreshold><keepFiles>{LOG_FILES}</keepFiles></log>
{account}</service>
"""

    def register(self, spec: Spec) -> None:
        """Copy the wrapper beside its file and install it."""
        try:
            shutil.copyfile(self.program, self.executable(spec))
        except OSError as error:
            raise specs.no_right(self.executable(spec), error) from None
        must(self.call, str(self.executable(spec)), "install")

    def unregister(self, spec: Spec) -> None:
        """Uninstall it and remove the wrapper's copy."""
        must(self.call, str(self.executable(spec)), "uninstall")
        self.executable(spec).unlink(missing_ok=True)
