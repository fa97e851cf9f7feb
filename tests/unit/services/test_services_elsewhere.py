"""Services of Windows and macOS: files and command lines as recorded expectations; they are not run there."""

from __future__ import annotations

import plistlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest

from openmsi_streams.errors import ServiceError
from openmsi_streams.services import spec as specs
from openmsi_streams.services.calls import Answer
from openmsi_streams.services.launchd import Launchd
from openmsi_streams.services.manage import manager
from openmsi_streams.services.spec import Spec
from openmsi_streams.services.windows import Nssm, WinSW, windows_manager

SECRET = 'p"w%PATH%$x'
QUERY = """
SERVICE_NAME: openmsi-streams-lab
        TYPE               : 10  WIN32_OWN_PROCESS
        STATE              : 4  RUNNING
                                (STOPPABLE, NOT_PAUSABLE, ACCEPTS_SHUTDOWN)
        WIN32_EXIT_CODE    : 0  (0x0)
        PID                : 5120
"""


class Recorder:
    """Stands for the system's programs: records calls, answers as told."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.answers: dict[str, Answer] = {}

    def __call__(self, words: Sequence[str]) -> Answer:
        self.calls.append(list(words))
        return self.answers.get(" ".join(words[:2]), Answer(0, ""))


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    return specs.make(
        "lab",
        ["watch", "my data", "--topic", "x&y"],
        workdir=str(tmp_path),
        variables=[f"SECRET={SECRET}"],
        system=True,
    )


# -- Windows ---------------------------------------------------------------------------------------------------------


def test_nssm_is_called_as_recorded(tmp_path: Path, spec: Spec) -> None:
    call = Recorder()
    by = Nssm(root=tmp_path / "Program Data", program="nssm.exe", call=call)
    by.install(spec)
    folder = tmp_path / "Program Data" / "openmsi-streams" / "services"
    line = f'-m openmsi_streams.services.run --spec "{folder / "lab.json"}"'
    assert call.calls == [
        [
            "icacls",
            str(folder / "lab.json"),
            "/inheritance:r",
            "/grant:r",
            "*S-1-5-18:F",
            "/grant:r",
            "*S-1-5-32-544:F",
        ],
        ["nssm.exe", "install", "openmsi-streams-lab", sys.executable],
        ["nssm.exe", "set", "openmsi-streams-lab", "AppParameters", line],
        ["nssm.exe", "set", "openmsi-streams-lab", "AppDirectory", str(tmp_path)],
        ["nssm.exe", "set", "openmsi-streams-lab", "DisplayName", "openmsi-streams lab"],
        ["nssm.exe", "set", "openmsi-streams-lab", "Description", "openmsi-streams watch"],
        ["nssm.exe", "set", "openmsi-streams-lab", "Start", "SERVICE_DELAYED_AUTO_START"],
        ["nssm.exe", "set", "openmsi-streams-lab", "AppStdout", str(folder / "lab.log")],
        ["nssm.exe", "set", "openmsi-streams-lab", "AppStderr", str(folder / "lab.log")],
        ["nssm.exe", "set", "openmsi-streams-lab", "AppRotateFiles", "1"],
        ["nssm.exe", "set", "openmsi-streams-lab", "AppRotateOnline", "1"],
        ["nssm.exe", "set", "openmsi-streams-lab", "AppRotateBytes", "10485760"],
        ["nssm.exe", "set", "openmsi-streams-lab", "AppStopMethodConsole", "90000"],
        ["nssm.exe", "set", "openmsi-streams-lab", "AppExit", "Default", "Restart"],
        ["nssm.exe", "set", "openmsi-streams-lab", "AppExit", "2", "Exit"],
        ["nssm.exe", "set", "openmsi-streams-lab", "AppRestartDelay", "10000"],
    ]


def test_no_secret_and_no_word_of_the_command_is_on_a_command_line_of_windows(tmp_path: Path, spec: Spec) -> None:
    for kind in (Nssm, WinSW):
        call = Recorder()
        wrapper = tmp_path / f"{kind.__name__}.exe"
        wrapper.write_bytes(b"MZ")
        by = kind(root=tmp_path / kind.__name__, program=str(wrapper), call=call)
        by.install(spec)
        assert SECRET not in str(call.calls) and "my data" not in str(call.calls)
        for path in by.files(spec):
            assert SECRET not in path.read_text()
        assert by.find("lab") == spec


def test_winsw_gets_an_xml_file_of_its_own_name_and_is_installed(tmp_path: Path, spec: Spec) -> None:
    wrapper = tmp_path / "WinSW-x64.exe"
    wrapper.write_bytes(b"MZ")
    call = Recorder()
    by = WinSW(root=tmp_path / "Program Data", program=str(wrapper), call=call)
    by.install(spec)
    folder = tmp_path / "Program Data" / "openmsi-streams" / "services"
    exe = folder / "openmsi-streams-lab.exe"
    assert exe.read_bytes() == b"MZ"
    assert call.calls[-1] == [str(exe), "install"]
    tree = ElementTree.fromstring((folder / "openmsi-streams-lab.xml").read_text())
    told = {child.tag: child.text for child in tree}
    assert told["id"] == "openmsi-streams-lab"
    assert told["executable"] == sys.executable
    assert told["arguments"] == f'-m openmsi_streams.services.run --spec "{folder / "lab.json"}"'
    assert told["workingdirectory"] == str(tmp_path)
    assert told["stoptimeout"] == "90 sec"
    onfailure = tree.find("onfailure")
    assert onfailure is not None and onfailure.attrib == {"action": "restart", "delay": "10 sec"}
    by.remove("lab")
    assert [str(exe), "uninstall"] in call.calls
    assert list(folder.iterdir()) == []


def test_verbs_go_through_the_service_controller(tmp_path: Path, spec: Spec) -> None:
    call = Recorder()
    by = Nssm(root=tmp_path, program="nssm.exe", call=call)
    call.answers = {
        "sc.exe queryex": Answer(0, QUERY),
        "sc.exe qc": Answer(0, "        START_TYPE         : 2   AUTO_START (DELAYED)"),
        "sc.exe start": Answer(1056, "an instance is already running"),
        "sc.exe stop": Answer(1062, "the service has not been started"),
    }
    by.start(spec)
    by.stop(spec)
    state = by.state(spec)
    assert call.calls[:2] == [["sc.exe", "start", "openmsi-streams-lab"], ["sc.exe", "stop", "openmsi-streams-lab"]]
    assert state.running and state.word == "RUNNING" and state.pid == 5120 and state.starts_by_itself


def test_missing_rights_on_windows_are_named(tmp_path: Path, spec: Spec) -> None:
    call = Recorder()
    call.answers = {"sc.exe start": Answer(5, "[SC] StartService: OpenService FAILED 5:\n\nAccess is denied.")}
    with pytest.raises(ServiceError, match="Administrator"):
        Nssm(root=tmp_path, program="nssm.exe", call=call).start(spec)


def test_the_account_of_the_service_may_read_its_file(tmp_path: Path, spec: Spec) -> None:
    call = Recorder()
    spec.run_as = r"LAB\instrument"
    Nssm(root=tmp_path, program="nssm.exe", call=call).install(spec)
    assert call.calls[0][-2:] == ["/grant:r", r"LAB\instrument:R"]
    assert ["nssm.exe", "set", "openmsi-streams-lab", "ObjectName", r"LAB\instrument"] in call.calls


def test_without_a_wrapper_its_addresses_are_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceError, match=r"winsw/releases.*--wrapper"):
        windows_manager()
    (tmp_path / "nssm.exe").write_bytes(b"MZ")
    assert isinstance(windows_manager(wrapper=str(tmp_path / "nssm.exe")), Nssm)
    assert isinstance(manager(system=True, platform="win32", wrapper=str(tmp_path / "nssm.exe")), Nssm)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a b"], '"a b"'),
        (['q"u'], 'q\\"u'),
        (["C:\\dir with\\"], '"C:\\dir with\\\\"'),
        ([""], '""'),
    ],
)
def test_the_one_quoting_rule_of_windows_that_we_rely_on(words: list[str], line: str) -> None:
    assert subprocess.list2cmdline(words) == line


# -- macOS -----------------------------------------------------------------------------------------------------------


def test_launchd_gets_a_property_list_without_secrets(tmp_path: Path, spec: Spec) -> None:
    call = Recorder()
    by = Launchd(system=True, root=tmp_path, call=call)
    by.install(spec)
    text = (tmp_path / "Library/LaunchDaemons/org.openmsi.streams.lab.plist").read_bytes()
    told = plistlib.loads(text)
    record = tmp_path / "Library/Application Support/openmsi-streams/services/lab.json"
    assert told["ProgramArguments"] == [sys.executable, "-m", "openmsi_streams.services.run", "--spec", str(record)]
    assert told["KeepAlive"] is True and told["RunAtLoad"] is True
    assert SECRET.encode() not in text and by.find("lab") == spec


def test_launchctl_is_called_as_recorded(tmp_path: Path, spec: Spec) -> None:
    call = Recorder()
    by = Launchd(system=True, root=tmp_path, call=call)
    by.install(spec)
    call.answers = {"launchctl print": Answer(113, "Could not find service")}
    by.start(spec)
    assert call.calls[-1] == ["launchctl", "bootstrap", "system", str(by.plist_path(spec))]
    assert not by.state(spec).running
    call.answers = {"launchctl print": Answer(0, "system/x = {\n\tstate = running\n\tpid = 77\n}")}
    by.start(spec)
    assert call.calls[-1] == ["launchctl", "kickstart", "system/org.openmsi.streams.lab"]
    state = by.state(spec)
    assert state.running and state.pid == 77
    by.stop(spec)
    assert call.calls[-1] == ["launchctl", "bootout", "system/org.openmsi.streams.lab"]


def test_a_system_without_a_service_manager_is_named() -> None:
    with pytest.raises(ServiceError, match="plan9"):
        manager(system=True, platform="plan9")
