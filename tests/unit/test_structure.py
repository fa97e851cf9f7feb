"""The house keeps its order: imports run one way, producers are light, and packaging sees each module once."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "openmsi_streams"

# Each room, and the other rooms that its modules may import. `errors` is free for all, and so is a room's own inside.
# Rooms that wire (app, web, demo, cli, services) are not listed: they may import everything that is below them.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "chunks": set(),
    "config": {"chunks"},
    "crypto": {"chunks", "config"},
    "producers": {"chunks", "config", "crypto"},
    "assembly": {"chunks", "config"},
    "storage": {"chunks", "config"},
    "pdv": {"chunks", "config"},
    "gemd": {"chunks", "config"},
    "embedded": set(),
    "tables": {"chunks", "config", "assembly", "storage", "pdv", "gemd", "crypto"},
    "agents": {"chunks", "config", "assembly", "storage", "pdv", "gemd", "crypto", "tables", "worker", "processors"},
    "worker": {"chunks", "config", "assembly", "storage", "pdv", "gemd", "crypto", "tables", "processors"},
}
# A room's command line is wiring too: it stands in the room so that it is found there. `reference` describes them all.
WIRING = ("commands.py", "topics_commands.py", "replay.py", "reference.py")
HEAVY = ("faust", "mode", "aiokafka", "rocksdict", "boto3", "botocore", "gemd", "numpy", "scipy", "matplotlib", "rich")


def imports(module: Path) -> set[str]:
    """Full names of all modules of ours that a module imports, wherever in its text, except for type checking."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                visit(other)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative imports hide which room is meant"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(module.read_text(encoding="utf-8")))
    return {name for name in found if name.startswith("openmsi_streams.")}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def test_imports_run_one_way() -> None:
    wrong: list[str] = []
    for path in modules():
        relative = path.relative_to(PACKAGE)
        room = relative.parts[0].removesuffix(".py")
        if room not in MAY_IMPORT or path.name in WIRING:
            continue
        allowed = MAY_IMPORT[room] | {room, "errors", "__version__"}
        wrong += [f"{relative} imports {name}" for name in sorted(imports(path)) if name.split(".")[1] not in allowed]
    assert not wrong, "\n".join(wrong)


def test_every_room_is_known_to_this_test() -> None:
    wiring = {"app", "web", "demo", "cli", "services", "processors", "__init__", "__main__"}
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()}
    assert rooms <= set(MAY_IMPORT) | wiring, "say in MAY_IMPORT what the new room may import"


def test_nothing_imports_the_links_at_the_top() -> None:
    """A top-level `tables` would be PyTables in a scientist's environment."""
    for path in [*modules(), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not {name.split(".")[0] for name in names} & {"tables", "agents", "producers"}, path


def loaded_by(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has loaded after running ``code``."""
    script = f"{code}\nimport sys\nprint('\\n'.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_producers_are_light() -> None:
    every = "\n".join(
        f"import openmsi_streams.producers.{path.stem}"
        for path in sorted((PACKAGE / "producers").glob("*.py"))
        if path.stem != "__init__"
    )
    heavy = loaded_by(f"import openmsi_streams.producers\n{every}") & set(HEAVY)
    assert not heavy, f"importing openmsi_streams.producers loads {sorted(heavy)}"


@pytest.mark.parametrize("room", ["chunks", "config", "cli"])
def test_what_producers_stand_on_is_light_too(room: str) -> None:
    assert not loaded_by(f"import openmsi_streams.{room}") & set(HEAVY)


def test_the_front_door_shows_the_rooms() -> None:
    for name in ("pyproject.toml", "openmsi_streams", "agents", "tables", "producers", "tests", "README.md", "LICENSE"):
        assert (ROOT / name).exists(), name
    for name in ("agents", "tables", "producers"):
        link = ROOT / name
        if link.is_symlink():
            assert os.readlink(link) == f"openmsi_streams/{name}", "the links are relative, so that a clone has them"
            assert link.resolve() == (PACKAGE / name).resolve()
        else:
            # Windows without the right to make links: git writes a small text file.
            assert link.read_text(encoding="utf-8").strip() == f"openmsi_streams/{name}"


def test_the_wheel_holds_each_module_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(
        ROOT,
        source,
        symlinks=True,
        ignore=shutil.ignore_patterns(".git", ".venv*", "build", "dist", "*.egg-info", ".*_cache", "__pycache__"),
    )
    code = "import sys\nfrom setuptools import build_meta\nbuild_meta.build_wheel(sys.argv[1])"
    built = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    inside = sorted(name for name in names if name.endswith(".py"))
    expected = sorted(path.relative_to(ROOT).as_posix() for path in modules())
    assert inside == expected
    assert {f"openmsi_streams/{room}/__init__.py" for room in ("agents", "tables", "producers")} <= set(inside)
    assert "openmsi_streams/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"openmsi_streams", next(top for top in tops if top.endswith(".dist-info"))}
    data = {
        path.relative_to(ROOT).as_posix()
        for suffix in ("toml", "json", "html", "css", "js", "svg")
        for path in PACKAGE.rglob(f"*.{suffix}")
    }
    assert data <= set(names), f"missing from the wheel: {sorted(data - set(names))}"
