"""Synthetic PDV shots whose true values are known exactly; for the demo, the tests and the accuracy table.

V(t) = A_s(t) cos(2 pi f_c t + 4 pi d(t) cos(theta) / lambda + phi_s) + A_c cos(2 pi f_c t + phi_c) + n(t)

with the displacement d(t) in closed form (`kinematics`), noise with the roll-off of a scope's front end, then
quantisation and clipping. Needs numpy alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from openmsi_streams.pdv.kinematics import displacement, velocity
from openmsi_streams.pdv.trace import FloatArray, Trace
from openmsi_streams.pdv.trc import build_trc

NS = 1e-9


class Recipe(msgspec.Struct, kw_only=True):
    """Everything that makes a shot. Times in seconds, velocities in m/s, voltages in V, frequencies in Hz."""

    kind: str = "spall"
    knots: list[tuple[float, float]] = []
    """Corners of the velocity, (time after the start of motion, velocity)."""
    rounding: float = 0.35 * NS
    rate: float = 80e9
    points: int = 120_000
    record_start: float = -600 * NS
    onset: float = 0.0
    carrier: float = 2.233128e9
    carrier_volts: float = 0.12
    target_volts: float = 0.12
    noise: float = 0.05
    """Standard deviation of the noise over the target's amplitude, before the front end's roll-off."""
    bandwidth: float = 16e9
    bits: int = 8
    range_volts: float = 0.4
    wavelength: float = 1550e-9
    angle_deg: float = 0.0
    decay: float = 0.0
    """Time in which the target's amplitude falls to 1/e after the start of motion; 0: none."""
    dip: float = 0.0
    """Share of the target's amplitude lost just before the start of motion."""
    dropouts: list[tuple[float, float, float]] = []
    """(time after start, standard deviation, share of the amplitude lost) of each speckle drop-out."""
    linewidth: float = 0.0
    """Lorentzian width of the laser's phase noise."""
    phase_jump: float = 0.0
    """Jump of the carrier's phase at the start of motion, radians."""
    spur: float = 0.0
    """Amplitude of an interleave spur at a quarter of the sample rate, over the target's amplitude."""
    density: float = 8960.0
    c0: float = 3940.0
    hel: float = 0.0
    standoff: float = 0.0


class Shot(msgspec.Struct, kw_only=True):
    """A made shot: volts, time axis and truth (SI units; ``class`` among the keys)."""

    volts: FloatArray
    codes: npt.NDArray[Any]
    gain: float
    dt: float
    start: float
    truth: dict[str, float | str]
    recipe: Recipe

    @property
    def trace(self) -> Trace:
        """The shot as the readers would give it."""
        top = float(np.iinfo(self.codes.dtype).max)
        return Trace(
            volts=self.volts[None, :].copy(), dt=self.dt, starts=np.array([self.start]), format="synthetic",
            bits=self.recipe.bits, v_low=-self.gain * (top + 1), v_high=self.gain * top,
        )  # fmt: skip

    def velocity(self, t: FloatArray) -> FloatArray:
        """True velocity (m/s) at times ``t`` (s)."""
        if not self.recipe.knots:
            return np.zeros_like(t)
        knots, levels = _corners(self.recipe)
        return velocity(t, knots, levels, self.recipe.rounding)


def _corners(recipe: Recipe) -> tuple[FloatArray, FloatArray]:
    array = np.asarray(recipe.knots, dtype=np.float64)
    return array[:, 0] + recipe.onset, array[:, 1]


def make(recipe: Recipe, seed: int = 0) -> Shot:
    """Make a shot; the same recipe and seed give the same shot."""
    rng = np.random.default_rng(seed)
    n, dt = recipe.points, 1.0 / recipe.rate
    t: FloatArray = recipe.record_start + dt * np.arange(n, dtype=np.float64)
    after = t - recipe.onset
    phase = 2 * np.pi * recipe.carrier * t
    if recipe.linewidth > 0:
        # A Lorentzian line of width w is a random walk of the phase with variance 2 pi w per second.
        wander = np.cumsum(rng.normal(0, np.sqrt(2 * np.pi * recipe.linewidth * dt), n))
        phase = phase + wander
    amplitude = np.full(n, recipe.target_volts)
    if recipe.dip > 0:
        amplitude *= 1 - recipe.dip * np.exp(-0.5 * ((after + 8 * NS) / (5 * NS)) ** 2)
    if recipe.decay > 0:
        amplitude *= np.exp(-np.maximum(after, 0) / recipe.decay)
    for centre, width, depth in recipe.dropouts:
        amplitude *= 1 - depth * np.exp(-0.5 * ((after - centre) / width) ** 2)
    phi_s, phi_c = rng.uniform(0, 2 * np.pi, 2)
    moved = np.zeros(n)
    if recipe.knots:
        knots, levels = _corners(recipe)
        moved = displacement(t, knots, levels, recipe.rounding) * np.cos(np.radians(recipe.angle_deg))
    volts = amplitude * np.cos(phase + 4 * np.pi / recipe.wavelength * moved + phi_s)
    volts += recipe.carrier_volts * np.cos(phase + phi_c + recipe.phase_jump * (after > 0))
    if recipe.spur > 0:
        volts += recipe.spur * recipe.target_volts * np.cos(np.pi / 2 * np.arange(n))
    noise = np.fft.rfft(rng.normal(0, recipe.noise * recipe.target_volts, n))
    noise /= np.sqrt(1 + (np.fft.rfftfreq(n, dt) / recipe.bandwidth) ** 16)
    volts += np.fft.irfft(noise, n)
    truth = _truth(recipe)
    if recipe.linewidth > 0:
        # The carrier of a wandering laser is what it was at rest, a straight line through its phase.
        quiet = after < -30 * NS
        truth["carrier_frequency"] = recipe.carrier + float(np.polyfit(t[quiet], wander[quiet], 1)[0]) / (2 * np.pi)
    # Codes of up to 8 bits fill an int8; finer ones stand left-justified in an int16, as LeCroy stores them.
    kind = np.int8 if recipe.bits <= 8 else np.int16
    width = 8 * np.dtype(kind).itemsize
    step = 1 << (width - recipe.bits)
    gain = recipe.range_volts / (1 << (width - 1))
    top = (1 << (width - 1)) - step
    codes = np.clip(np.round(volts / (gain * step)) * step, -top - step, top).astype(kind)
    return Shot(
        volts=codes * gain, codes=codes, gain=gain, dt=dt, start=recipe.record_start, truth=truth, recipe=recipe,
    )  # fmt: skip


def _truth(recipe: Recipe) -> dict[str, float | str]:
    """True values. Extrema are those of the velocity itself, not of a smoothed one."""
    truth: dict[str, float | str] = {"class": recipe.kind, "carrier_frequency": recipe.carrier}
    if not recipe.knots:
        return truth
    knots, levels = _corners(recipe)
    truth["start_time"] = float(knots[0])

    def extreme(low: float, high: float, sign: float) -> tuple[float, float]:
        for _ in range(4):
            grid = np.linspace(low, high, 2001)
            v = velocity(grid, knots, levels, recipe.rounding)
            k = int(np.argmax(sign * v))
            step = grid[1] - grid[0]
            low, high = grid[k] - 2 * step, grid[k] + 2 * step
        return float(grid[k]), float(v[k])

    end = recipe.record_start + recipe.points / recipe.rate
    span = min(float(knots[-1]) + 5 * recipe.rounding, end)
    if recipe.kind == "spall":
        lowest = int(np.argmax(levels))
        while levels[lowest + 1] <= levels[lowest]:
            lowest += 1
        t_peak, peak = extreme(float(knots[0]), float(knots[lowest]), 1.0)
        t_min, minimum = extreme(t_peak, float(knots[lowest + 1]), -1.0)
        _, again = extreme(t_min, float(knots[lowest + 2]), 1.0)
        truth |= {"peak_velocity": peak, "peak_time": t_peak, "pullback_minimum_velocity": minimum}
        truth |= {"recompression_velocity": again, "pullback_velocity": peak - minimum}
        truth["spall_strength"] = 0.5 * recipe.density * recipe.c0 * (peak - minimum) * 1e-9
    else:
        truth["peak_velocity"] = extreme(float(knots[0]), span, 1.0)[1]
    if recipe.hel > 0:
        truth["hel_velocity"] = recipe.hel
    if recipe.kind == "flyer" and recipe.standoff > 0:
        grid = np.linspace(float(knots[0]) - 5 * recipe.rounding, span, 40_001)
        moved = displacement(grid, knots, levels, recipe.rounding)
        if moved[-1] > recipe.standoff:
            at = np.interp(recipe.standoff, moved, grid)
            truth["impact_velocity"] = float(velocity(np.array([at]), knots, levels, recipe.rounding)[0])
    return truth


def spall_knots(
    peak: float = 830.0, minimum: float = 455.0, again: float = 700.0, rise: float = 6.0, plateau: float = 0.0,
    pull: float = 20.0, rebound: float = 14.0, hel: float = 0.0, foot: float = 8.0,
) -> list[tuple[float, float]]:  # fmt: skip
    """Corners of a spall signal; velocities in m/s, durations in ns."""
    t, out = 0.0, [(0.0, 0.0)]
    if hel:
        out += [(0.8, hel), (0.8 + foot, hel)]
        t = 0.8 + foot
    t += rise
    out.append((t, peak))
    if plateau:
        t += plateau
        out.append((t, peak))
    t += pull
    out.append((t, minimum))
    t += rebound
    out.append((t, again))
    # Damped ringing of the spalled layer about its mean velocity.
    mean, swing = 0.5 * (minimum + again), 0.5 * (again - minimum)
    for k in range(1, 4):
        t += rebound * 1.1
        out.append((t, mean + (-1) ** k * swing * 0.6**k))
    return [(time * NS, v) for time, v in out]


def flyer_knots(final: float = 1250.0, tau: float = 35.0, length: float = 500.0) -> list[tuple[float, float]]:
    """Corners of a flyer that nears ``final`` m/s with time constant ``tau`` ns and coasts for ``length`` ns."""
    steps = np.array([0.0, 0.15, 0.35, 0.6, 0.9, 1.3, 1.8, 2.5, 3.5, 5.0])
    levels = final * (1 - np.exp(-steps)) / (1 - np.exp(-5.0))
    knots = [(float(s) * tau * NS, float(v)) for s, v in zip(steps, levels, strict=True)]
    return [*knots, (length * NS, final)]


def _seeded(build: Callable[[np.random.Generator], Recipe]) -> Callable[[int], Recipe]:
    def recipe(seed: int) -> Recipe:
        rng = np.random.default_rng(1000 + seed)
        made = build(rng)
        # Carriers off the FFT grid and starts off the sample grid, as in reality.
        made.carrier += float(rng.uniform(-20e6, 20e6))
        made.onset += float(rng.uniform(-1, 1)) * NS
        return made

    return recipe


def _case(**options: object) -> Callable[[int], Recipe]:
    return _seeded(lambda rng: msgspec.convert({"knots": spall_knots(), **options}, Recipe))


AZ31B = {"density": 1775.0, "c0": 4516.0}
CASES: dict[str, Callable[[int], Recipe]] = {
    "sharp, noise 2 %": _case(noise=0.02, knots=spall_knots(rise=14)),
    "sharp, noise 5 %": _case(knots=spall_knots(rise=14)),
    "sharp, noise 10 %": _case(noise=0.10, knots=spall_knots(rise=14)),
    "sharp, noise 20 %": _case(noise=0.20, knots=spall_knots(rise=14)),
    "sharp, noise 40 %": _case(noise=0.40, knots=spall_knots(rise=14)),
    "steep rise 1 ns": _case(knots=spall_knots(rise=1.0), rounding=0.15 * NS),
    "rise 3 ns": _case(knots=spall_knots(rise=3.0)),
    "rounded 1.5 ns": _case(rounding=1.5 * NS),
    "plateau 10 ns": _case(knots=spall_knots(plateau=10)),
    "plateau 4 ns, 10 %": _case(knots=spall_knots(plateau=4, rise=3), noise=0.10),
    "HEL foot": _case(knots=spall_knots(hel=220, rise=8), hel=220.0),
    "weak target": _case(target_volts=0.02, carrier_volts=0.20, noise=0.2),
    "drop-out": _case(dropouts=[(8 * NS, 1.5 * NS, 0.9)]),
    "decay and dip": _case(decay=60 * NS, dip=0.7),
    "slow 60 m/s": _case(knots=spall_knots(60, 33, 50, rise=8), noise=0.05),
    "fast 1.5 km/s": _case(knots=spall_knots(1500, 1000, 1350, rise=4)),
    "fast 3 km/s": _case(knots=spall_knots(3000, 2300, 2800, rise=3)),
    "carrier jump": _case(phase_jump=0.8),
    "phase noise 30 kHz": _case(linewidth=30e3),
    "spur": _case(spur=0.3),
    "12 bits, 10 GS/s": _case(rate=10e9, points=20_000, bandwidth=4.2e9, bits=12, carrier=1.5e9, record_start=-1e-6,
                              noise=0.03),
    "128 GS/s, 10 bits": _case(rate=128e9, points=192_000, bandwidth=21e9, bits=10, **AZ31B),
    "AZ31B, 14 bits": _case(bits=14, **AZ31B),
    "flyer": _case(kind="flyer", knots=flyer_knots(), standoff=125e-6),
    "flyer, slow": _case(kind="flyer", knots=flyer_knots(450, 60, 600), standoff=125e-6),
    "no spall, release": _case(kind="no_spall", knots=[(0, 0), (4 * NS, 700), (16 * NS, 700), (70 * NS, 120),
                                                       (140 * NS, 60)]),
    "no spall, plateau": _case(kind="no_spall", knots=[(0, 0), (4 * NS, 400), (200 * NS, 400)]),
    "no shot": _case(kind="no_shot", knots=[]),
    "no shot, dip": _case(kind="no_shot", knots=[], dip=0.8),
    "no shot, noise 40 %": _case(kind="no_shot", knots=[], noise=0.4),
}  # fmt: skip
"""Recipes by name; each takes a seed."""


def shot(case: str = "sharp, noise 5 %", seed: int = 0, **changes: object) -> Shot:
    """Make the shot of a case and seed; ``changes`` replace fields of the recipe."""
    recipe = CASES[case](seed)
    for name, value in changes.items():
        setattr(recipe, name, value)
    # Cases must not share their noise, or one lucky seed would be lucky in all of them.
    return make(recipe, zlib.crc32(case.encode()) + seed)


def write_trc(path: str | Path, made: Shot | None = None, *, case: str = "HEL foot", seed: int = 0) -> Shot:
    """Write a shot as a LeCroy binary record; gives the shot, with its truth."""
    made = made or shot(case, seed)
    data = build_trc(
        made.codes, gain=made.gain, offset=0.0, channel=0, interval=made.dt, first=made.start, bits=made.recipe.bits
    )
    Path(path).write_bytes(data)
    return made


def write_lecroy_text(path: str | Path, made: Shot | None = None, *, case: str = "HEL foot", seed: int = 0) -> Shot:
    """Write a shot as LeCroy's "ASCII, Spreadsheet" text: eight digits of time, six of voltage."""
    made = made or shot(case, seed)
    n = made.volts.size
    times = (made.start + made.dt * np.arange(n)).tolist()
    rows = [f"{time:.8g},{volt:.6g}" for time, volt in zip(times, made.volts.tolist(), strict=True)]
    head = (
        f"LECROYWM816Zi-B,75473,Waveform\nSegments,1,SegmentSize,{n}\nSegment,TrigTime,TimeSinceSegment1\n"
        "#1,30-Jun-2026 13:57:59,0                 \nTime,Ampl\n"
    )
    Path(path).write_text(head + "\n".join(rows) + "\n", encoding="ascii", newline="\n")
    return made
