"""Accuracy, coverage and cost of the PDV analysis on synthetic shots with known truth.

    python bench/pdv.py [--seeds 20] [--case TEXT]... [--alpss PYTHON] [--cost]

``--alpss`` names the Python of a virtual environment that holds ALPSS 1.8.0 (`pip install alpss==1.8.0`); the same
shots then go through it, with the settings its documentation gives, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from openmsi_streams.pdv import synthetic
from openmsi_streams.pdv.analysis import analyze_trace
from openmsi_streams.pdv.result import ShotResult
from openmsi_streams.pdv.settings import PdvSettings, constants


def settings_of(recipe: synthetic.Recipe) -> PdvSettings:
    """The settings that are true for a recipe; all constants exact, so that what remains is the measurement's own."""
    return PdvSettings(
        wavelength_nm=recipe.wavelength * 1e9, angle_deg=recipe.angle_deg, density=recipe.density, c0=recipe.c0,
        cl=recipe.c0 * 1.2, standoff_mm=recipe.standoff * 1e3 or None,
    )  # fmt: skip


def one(case: str, seed: int) -> tuple[dict[str, float | str], ShotResult, float]:
    """(truth, result, CPU seconds) of one shot."""
    made = synthetic.shot(case, seed)
    began = time.process_time()
    result = analyze_trace(made.trace, constants(settings_of(made.recipe)))
    return made.truth, result, time.process_time() - began


KEYS = ("peak_velocity", "spall_strength", "start_time", "carrier_frequency", "hel_velocity", "impact_velocity",
        "pullback_minimum_velocity", "recompression_velocity")  # fmt: skip
# Noise over the target's amplitude up to which accuracy and coverage are promised.
QUIET = 0.10
# Flags that say nothing against a value.
MILD = {"wavelength_default", "angle_default", "material_default", "cl_default", "sequence"}


def table(cases: list[str], seeds: int, verbose: bool) -> dict[str, Any]:
    """Print the table; gives the sums over all cases."""
    print(f"{'case':22s} {'class':>6s} {'peak m/s: mean rms 1s cov':>28s} {'spall %: mean rms 1s cov':>27s} "
          f"{'start ns: mean rms':>18s} {'fc kHz':>7s} {'other':>22s} {'>5s':>4s} {'CPU s':>6s}")  # fmt: skip
    total: dict[str, list[float]] = {"class": [], "peak": [], "spall": [], "wrong": []}
    broken: list[str] = []
    for case in cases:
        errors: dict[str, list[tuple[float, float]]] = {key: [] for key in KEYS}
        right, wrong, cpu = [], 0, []
        for seed in range(seeds):
            truth, result, seconds = one(case, seed)
            cpu.append(seconds)
            right.append(result.shot_class == truth["class"])
            if not right[-1] and verbose:
                print(f"    seed {seed}: {result.shot_class}: {result.reason} {result.flags}")
            for key in KEYS:
                if key not in truth or key not in result.quantities or not right[-1]:
                    continue
                got = result.quantities[key]
                error, sigma = got.value - float(truth[key]), got.sigma or math.nan
                errors[key].append((error, sigma))
                flagged = set(result.flags) - MILD
                if abs(error) > 5 * sigma and key != "carrier_frequency" and not flagged:
                    wrong += 1
                    if verbose:
                        print(f"    seed {seed}: {key} off by {error:.4g} = {abs(error) / sigma:.1f} sigma, unflagged")
                elif abs(error) > 5 * sigma and verbose:
                    print(f"    seed {seed}: {key} off by {error:.4g} = {abs(error) / sigma:.1f} sigma {flagged}")

        def show(key: str, scale: float = 1.0, of: float | None = None, errors: Any = errors) -> str:
            if not errors[key]:
                return ""
            e = np.array(errors[key])
            e = e / of * 100 if of else e * scale
            cover = np.mean(np.abs(e[:, 0]) < e[:, 1])
            return f"{e[:, 0].mean():8.3f} {np.sqrt(np.mean(e[:, 0] ** 2)):7.3f} {np.median(e[:, 1]):6.3f} {cover:4.2f}"

        spall = float(truth.get("spall_strength", 0.0)) or None
        start = np.array(errors["start_time"] or [(math.nan, math.nan)])[:, 0] * 1e9
        carrier = np.array(errors["carrier_frequency"] or [(math.nan, math.nan)])[:, 0] * 1e-3
        other = ""
        for key, short in (("hel_velocity", "HEL"), ("impact_velocity", "impact")):
            if errors[key]:
                e = np.array(errors[key])
                other = f"{short} {e[:, 0].mean():.2f}±{e[:, 0].std():.2f} n={len(e)}"
        print(f"{case:22s} {np.mean(right):6.2f} {show('peak_velocity'):>28s} {show('spall_strength', of=spall):>27s} "
              f"{start.mean():9.3f} {np.sqrt(np.mean(start**2)):8.3f} {np.abs(carrier).max():7.1f} {other:>22s} "
              f"{wrong:4d} {np.median(cpu):6.2f}", flush=True)  # fmt: skip
        total["class"] += right
        total["wrong"].append(wrong)
        # What is promised of values is promised up to noise of a tenth of the target's amplitude.
        if synthetic.CASES[case](0).noise > QUIET:
            continue
        total["peak"] += [abs(e) < s for e, s in errors["peak_velocity"]]
        total["spall"] += [abs(e) < s for e, s in errors["spall_strength"]]
        top = float(truth.get("peak_velocity", 0.0))
        for name, got, limit in (
            ("peak m/s", mean_of(errors["peak_velocity"]), max(1.0, 0.0015 * top)),
            ("spall %", mean_of(errors["spall_strength"]) / (spall or 1.0) * 100, 0.5),
            ("start ns", float(start.mean()), 0.3),
            ("carrier kHz", float(np.abs(carrier).max()), 20.0),
        ):
            if abs(got) > limit:
                broken.append(f"{case}: {name} {got:.3f}, more than {limit:.3f}")
    peak, spalled = float(np.mean(total["peak"] or [0])), float(np.mean(total["spall"] or [0]))
    print(f"all: class right {np.mean(total['class']):.4f}, unflagged beyond 5 sigma {int(sum(total['wrong']))}; noise "
          f"up to {QUIET:.0%}: within one sigma {peak:.3f} of {len(total['peak'])} peaks, {spalled:.3f} of "
          f"{len(total['spall'])} spall strengths")  # fmt: skip
    for name, got in (("peak", peak), ("spall", spalled)):
        if not 0.60 <= got <= 0.76:
            broken.append(f"coverage of {name} {got:.3f}, not between 0.60 and 0.76")
    if np.mean(total["class"]) < 0.99 or sum(total["wrong"]):
        broken.append("class or flags, see above")
    print("every line holds" if not broken else "does not hold: " + "; ".join(broken))
    return total


def mean_of(errors: list[tuple[float, float]]) -> float:
    """Mean of the errors, 0 where there are none."""
    return float(np.mean([error for error, _ in errors])) if errors else 0.0


BIG = """
import sys
from openmsi_streams.pdv import synthetic
made = synthetic.shot("128 GS/s, 10 bits", 0, points=1_280_000, record_start=-5e-6)
synthetic.write_lecroy_text(sys.argv[1], made)
"""


def cost() -> None:
    """Whole-process cost of one shot with its sheet, and CPU of a warm process."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        synthetic.write_trc(base / "a.trc")
        synthetic.write_lecroy_text(base / "a.txt")
        # In a process of its own: a child's peak memory, as the system counts it, begins with its parent's.
        subprocess.run([sys.executable, "-c", BIG, str(base / "big.txt")], check=True)
        code = (
            "import sys, time, resource\n"
            "from openmsi_streams.pdv.run import analyze_to_files\n"
            "warm = sys.argv[1]\n"
            "analyze_to_files(warm, sys.argv[3], {}, {})\n"
            "a = time.process_time(); w = time.perf_counter()\n"
            "analyze_to_files(sys.argv[2], sys.argv[3], {}, {})\n"
            "print(f'{time.process_time() - a:.2f} s CPU, {time.perf_counter() - w:.2f} s wall, "
            "{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB')\n"
        )
        for label, name in (("120,000 samples, .trc", "a.trc"), ("120,000 samples, text", "a.txt"),
                            ("1.28 M samples, text", "big.txt")):  # fmt: skip
            done = subprocess.run([sys.executable, "-c", code, str(base / "a.trc"), str(base / name), folder],
                                  capture_output=True, text=True, check=True)  # fmt: skip
            print(f"warm process, {label}, with sheet: {done.stdout.strip()}")
        for name in ("a.trc", "big.txt"):
            wall, seconds, memory = run([sys.executable, "-m", "openmsi_streams", "pdv", "analyze", str(base / name),
                                         "--out", folder, "--json", os.devnull])  # fmt: skip
            print(f"whole process, {name}: {wall:.2f} s wall, {seconds:.2f} s CPU, {memory:.0f} MB")


def run(command: list[str]) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, peak MB) of a command in a process of its own."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


ALPSS = """
import sys
import matplotlib
matplotlib.use("Agg")
from alpss.commands import alpss_main_with_config
alpss_main_with_config(sys.argv[1])
"""


def alpss(python: str, cases: list[str], seeds: int) -> None:
    """The same shots through ALPSS 1.8.0, settings of its documentation and test, truth's own material."""
    print("\nALPSS 1.8.0 (otsu start, Gaussian notch, smoothing 601 samples), and ours: each shot in a process of its "
          "own,\nfrom its text file to figure, results and velocity history on disk")  # fmt: skip
    print(
        f"{'case':22s} {'ok':>6s} {'peak m/s: mean rms':>20s} {'spall %: mean rms':>18s} {'s':>6s} {'CPU':>6s} "
        f"{'MB':>6s}"
    )
    ours_all, theirs_all = [], []
    for case in cases:
        rows, seconds = [], []
        spall_truth = None
        ours = []
        for seed in range(seeds):
            made = synthetic.shot(case, seed)
            truth = made.truth
            if "spall_strength" not in truth:
                continue
            spall_truth = float(truth["spall_strength"])
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "shot.csv"
                times = made.start + made.dt * np.arange(made.volts.size)
                np.savetxt(path, np.column_stack([times, made.volts]), delimiter=",", header="Time,Ampl", comments="",
                           fmt="%.8g")  # fmt: skip
                config = alpss_config(made, folder, path)
                (Path(folder) / "config.json").write_text(json.dumps(config))
                seconds.append(run([python, "-c", ALPSS, str(Path(folder) / "config.json")]))
                found = alpss_result(Path(folder))
                if found:
                    rows.append((found[0] - float(truth["peak_velocity"]), found[1] * 1e-9 - spall_truth))
                out = Path(folder) / "ours.json"
                r = made.recipe
                usage = run([sys.executable, "-m", "openmsi_streams", "pdv", "analyze", str(path), "--density",
                             str(r.density), "--c0", str(r.c0), "--cl", str(r.c0 * 1.2), "--wavelength-nm",
                             str(r.wavelength * 1e9), "--out", folder, "--json", str(out)])  # fmt: skip
                own = json.loads(out.read_text())
                got = own["quantities"].get("spall_strength")
                if got:
                    ours.append((own["quantities"]["peak_velocity"]["value"] - float(truth["peak_velocity"]),
                                 got["value"] - spall_truth, *usage))  # fmt: skip
        if spall_truth is None:
            continue
        for label, e, use in (("alpss", np.array(rows), np.array(seconds)), ("ours", np.array(ours)[:, :2] if ours else
                              np.array([]), np.array(ours)[:, 2:] if ours else np.zeros((1, 3)))):  # fmt: skip
            if e.size:
                (theirs_all if label == "alpss" else ours_all).append(
                    (
                        abs(e[:, 1].mean()) / spall_truth,
                        np.sqrt(np.mean(e[:, 1] ** 2)) / spall_truth,
                        *np.median(use, axis=0),
                    )
                )
                p, s = e[:, 0], e[:, 1] / spall_truth * 100
                text = f"{p.mean():10.2f} {np.sqrt(np.mean(p**2)):9.2f} {s.mean():9.2f} {np.sqrt(np.mean(s**2)):8.2f}"
            else:
                text = f"{'no result':>39s}"
            u = np.median(use, axis=0)
            name = case if label == "alpss" else ""
            spent = f"{u[0]:6.2f} {u[1]:6.2f} {u[2]:6.0f}"
            print(f"{name:22s} {label:6s} {len(e):2d}/{seeds} {text} {spent}", flush=True)
    if ours_all and theirs_all:
        a, b = np.array(theirs_all).mean(axis=0), np.array(ours_all).mean(axis=0)
        print(f"mean over cases: |spall bias| {a[0] * 100:.2f} % against {b[0] * 100:.3f} % ({a[0] / b[0]:.0f} times); "
              f"spall rms {a[1] * 100:.2f} % against {b[1] * 100:.3f} % ({a[1] / b[1]:.0f} times); "
              f"wall {a[2]:.1f} s against {b[2]:.2f} s ({a[2] / b[2]:.1f} times); "
              f"CPU {a[3]:.1f} s against {b[3]:.2f} s ({a[3] / b[3]:.1f} times); {a[4]:.0f} MB "
              f"against {b[4]:.0f} MB")  # fmt: skip


def alpss_config(made: synthetic.Shot, folder: str, path: Path) -> dict[str, Any]:
    """ALPSS 1.8.0 configuration: its test's values, with the shot's own rate, band, wavelength and material."""
    r = made.recipe
    per_80 = r.rate / 80e9
    top = r.carrier + 2 * max((v for _, v in r.knots), default=1000.0) / r.wavelength
    return {
        "io": {"filepath": str(path), "out_files_dir": folder, "time_to_skip": 0.0,
               "time_to_take": r.points / r.rate, "save_data": True, "display_plots": False},
        "start_time": {"start_time_user": "otsu", "start_time_correction": 0.0, "t_before": 5e-9, "t_after": 50e-9,
                       "carrier_band_time": 250e-9, "iq_threshold_factor": 0.4, "cusum_offset": 5,
                       "cusum_threshold": 1000},
        "stft": {"sample_rate": r.rate, "nperseg": 512, "noverlap": 435, "nfft": 5120, "window": "hann",
                 "freq_min": 0.65 * r.carrier, "freq_max": top + 0.7e9, "blur_kernel": [5, 5], "blur_sigx": 0,
                 "blur_sigy": 0},
        "carrier": {"carrier_filter_type": "gaussian_notch", "order": 6, "wid": 5e7, "t_fit_begin": 20e-9,
                    "t_fit_end": 300e-9},
        "velocity": {"smoothing_window": int(601 * per_80) | 1, "smoothing_wid": 3, "smoothing_amp": 1,
                     "smoothing_sigma": 1, "smoothing_mu": 0, "lam": r.wavelength, "theta": 0.0,
                     "min_velocity_threshold": 25, "max_velocity_uncertainty_threshold": 10},
        "material": {"C0": r.c0, "C_L": r.c0, "density": r.density, "delta_rho": 9, "delta_C0": 23, "delta_lam": 8e-18,
                     "delta_theta": 5},
        "spall": {"spall_enabled": True, "pb_neighbors": int(400 * per_80), "pb_idx_correction": 0,
                  "rc_neighbors": int(400 * per_80), "rc_idx_correction": 0},
        "hel": {"hel_enabled": True, "hel_start_time_ns": 0, "hel_end_time_ns": 30, "hel_angle_threshold_deg": 45,
                "hel_detection_min_points": 3, "minimum_HEL_velocity_expected": 10},
        "uncertainty": {"uncert_mult": 100},
        "plotting": {"cmap": "viridis", "plot_figsize": [30, 10], "plot_dpi": 300},
    }  # fmt: skip


def alpss_result(folder: Path) -> tuple[float, float] | None:
    """(peak velocity m/s, spall strength Pa) of an ALPSS run, None where it gave none."""
    for path in folder.rglob("*results*.csv"):
        values: dict[str, str] = {}
        lines = path.read_text().splitlines()
        if len(lines) >= 2:
            values = dict(zip(lines[0].split(","), lines[1].split(","), strict=False))
        for line in lines:
            key, _, value = line.partition(",")
            values.setdefault(key, value)
        try:
            peak, spall = float(values["Velocity at Max Compression"]), float(values["Spall Strength"])
        except (KeyError, ValueError):
            return None
        return (peak, spall) if math.isfinite(peak) and math.isfinite(spall) else None
    return None


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--case", action="append", default=[], help="only cases whose name contains this text")
    parser.add_argument("--alpss", default="", help="Python of an environment with ALPSS 1.8.0")
    parser.add_argument("--alpss-seeds", type=int, default=3)
    parser.add_argument("--cost", action="store_true", help="measure time and memory too")
    parser.add_argument("--verbose", action="store_true", help="name each shot that goes wrong")
    chosen = parser.parse_args()
    cases = [name for name in synthetic.CASES if not chosen.case or any(text in name for text in chosen.case)]
    if chosen.seeds:
        table(cases, chosen.seeds, chosen.verbose)
    if chosen.cost:
        cost()
    if chosen.alpss:
        alpss(chosen.alpss, cases, chosen.alpss_seeds)
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
