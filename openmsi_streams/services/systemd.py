"""Services of systemd: units of the machine and of a person."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from openmsi_streams.services.calls import must
from openmsi_streams.services.manage import Manager, State
from openmsi_streams.services.spec import Spec

# Seconds that a command gets to send what is on its way, close files and leave its group.
STOP_SECONDS = 90
# Seconds without a sign of life; ten times the longest pause that a busy instrument PC has shown.
WATCHDOG_SECONDS = 120
# Pause before a new start: long enough for a broker that restarts, short enough for an instrument.
RESTART_SECONDS = 10

# Everything that a program which reads files and speaks TCP never needs. Left out on purpose: MemoryDenyWriteExecute
# (ctypes needs such memory) and ProcSubset (the memory of processors is read from /proc).
HARDENING = """\
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictNamespaces=yes
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""
# These need no namespace of the file system, which a person's own manager may not make on every kernel.
HARDENING_FOR_ALL = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
UMask=0027
"""


class Systemd(Manager):
    """Writes units and speaks to `systemctl`."""

    @property
    def folder(self) -> Path:
        """Where specs and environment files are kept."""
        return self.under_root(
            Path("/etc/openmsi-streams") if self.system else _config_home() / "openmsi-streams/services"
        )

    @property
    def units(self) -> Path:
        """Where units go."""
        return self.under_root(Path("/etc/systemd/system") if self.system else _config_home() / "systemd/user")

    def unit_path(self, spec: Spec) -> Path:
        """Return the unit's file."""
        return self.units / f"{spec.label}.service"

    def environment_path(self, spec: Spec) -> Path:
        """Return the file of the environment, which only its owner reads; systemd reads it before it changes users."""
        return self.folder / f"{spec.name}.env"

    def files(self, spec: Spec) -> dict[Path, str]:
        """The unit."""
        return {self.unit_path(spec): unit(spec, self.environment_path(spec))}

    def private(self, spec: Spec) -> dict[Path, str]:
        """The environment."""
        return {self.environment_path(spec): environment(spec)}

    def _systemctl(self, *words: str) -> tuple[str, ...]:
        return ("systemctl", *(() if self.system else ("--user",)), *words)

    def register(self, spec: Spec) -> None:
        """Let systemd read the unit, and start it with the machine."""
        must(self.call, *self._systemctl("daemon-reload"))
        must(self.call, *self._systemctl("enable", f"{spec.label}.service"))

    def unregister(self, spec: Spec) -> None:
        """Take it out; a unit that systemd does not know any more is no obstacle."""
        self.call(self._systemctl("disable", f"{spec.label}.service"))
        self.unit_path(spec).unlink(missing_ok=True)
        must(self.call, *self._systemctl("daemon-reload"))
        self.call(self._systemctl("reset-failed", f"{spec.label}.service"))

    def start(self, spec: Spec) -> None:
        """Start it and wait until it says that it is ready."""
        must(self.call, *self._systemctl("start", f"{spec.label}.service"))

    def stop(self, spec: Spec) -> None:
        """Stop it and wait until it has."""
        must(self.call, *self._systemctl("stop", f"{spec.label}.service"))

    def state(self, spec: Spec) -> State:
        """Ask for its state."""
        names = "ActiveState,SubState,MainPID,UnitFileState,Result"
        text = must(self.call, *self._systemctl("show", f"{spec.label}.service", f"--property={names}"))
        told = dict(line.partition("=")[::2] for line in text.splitlines())
        word = f"{told.get('ActiveState', 'unknown')} ({told.get('SubState', '?')})"
        if told.get("Result", "success") != "success":
            word += f", last result {told['Result']}"
        pid = told.get("MainPID", "0")
        return State(
            told.get("ActiveState") in ("active", "activating", "reloading"),
            word,
            int(pid) if pid.isdigit() else 0,
            told.get("UnitFileState") == "enabled",
        )


def _config_home() -> Path:
    import os

    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config").absolute()


def unit(spec: Spec, environment_file: Path) -> str:
    """Return the text of a unit."""
    lines = [
        f"# Written by `openmsi-streams service install {spec.name}`; change it with `service reinstall`.",
        "[Unit]",
        f"Description=openmsi-streams {_plain(spec.name)}: {_plain(spec.command[0])}",
        "Documentation=https://github.com/openmsi",
    ]
    if spec.system:
        lines += ["Wants=network-online.target", "After=network-online.target"]
    lines += [
        # An instrument's broker may be away for a weekend: never give up.
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        # A command of ours says when it is ready and that it is alive.
        *(("Type=notify", f"WatchdogSec={WATCHDOG_SECONDS}") if spec.is_ours else ("Type=exec",)),
        f"ExecStart={words(spec.arguments())}",
        f"WorkingDirectory={_escape_specifiers(spec.workdir)}",
        f"EnvironmentFile=-{_escape_specifiers(str(environment_file))}",
        "Environment=PYTHONUNBUFFERED=1",
        "Restart=always",
        f"RestartSec={RESTART_SECONDS}",
        # 2 is a wrong setting: it does not get better by itself.
        "RestartPreventExitStatus=2",
        "KillMode=mixed",
        f"TimeoutStopSec={STOP_SECONDS}",
        "TimeoutStartSec=infinity",
    ]
    if spec.system:
        if spec.run_as:
            lines.append(f"User={_plain(spec.run_as)}")
        lines += [
            # What the program keeps for itself goes to /var/lib and /var/cache, whoever it runs as.
            "StateDirectory=openmsi-streams",
            "CacheDirectory=openmsi-streams",
            'Environment="XDG_DATA_HOME=%S/openmsi-streams" "XDG_STATE_HOME=%S/openmsi-streams"',
            'Environment="XDG_CACHE_HOME=%C/openmsi-streams" "MPLCONFIGDIR=%C/openmsi-streams"',
            *HARDENING.splitlines(),
            # No right of root's, but for giving files away where the settings ask for that.
            f"CapabilityBoundingSet={'CAP_CHOWN' if spec.changes_owners else ''}",
            f"AmbientCapabilities={'CAP_CHOWN' if spec.changes_owners else ''}",
        ]
        paths = [spec.workdir, *spec.writable]
        # A leading minus lets the service start while a folder does not exist yet.
        lines += [f"ReadWritePaths={quoted('-' + path)}" for path in dict.fromkeys(paths)]
    lines += [
        *HARDENING_FOR_ALL.splitlines(),
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if spec.system else 'default.target'}",
        "",
    ]
    return "\n".join(lines)


def environment(spec: Spec) -> str:
    """Return the text of an environment file; values are quoted as systemd reads them."""
    lines = ["# Values for the service; secrets among them. Only its owner may read this file."]
    for name, value in sorted(spec.environment.items()):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'{name}="{escaped}"')
    return "\n".join([*lines, ""])


def words(arguments: Iterable[str]) -> str:
    """Return a command line as ExecStart= reads it: ``%`` and ``$`` stand for themselves, blanks are kept."""
    return " ".join(quoted(word.replace("$", "$$")) for word in arguments)


def quoted(text: str) -> str:
    """Return one word as systemd reads it."""
    text = _escape_specifiers(text)
    if text and all(letter.isalnum() or letter in "-_./:=,+@%$^" for letter in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def _escape_specifiers(text: str) -> str:
    return text.replace("%", "%%")


def _plain(text: str) -> str:
    return _escape_specifiers(" ".join(text.split()))
