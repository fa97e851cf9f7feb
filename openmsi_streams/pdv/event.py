"""Find the carrier and the event in a record, and follow the moving light through it."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from openmsi_streams.pdv.spectral import (
    CARRIER_OVER_NOISE,
    LOWEST_CARRIER,
    Band,
    Carrier,
    Spectrum,
    coarse_carrier,
    first_run,
    moving,
    refine_carrier,
)
from openmsi_streams.pdv.trace import BoolArray, ComplexArray, FloatArray
from openmsi_streams.pdv.tracking import Tracked, ridge, slope_noise, slope_velocity, slow_mean, track

# No free surface moves faster in a laboratory; it bounds the band that is searched.
FASTEST = 8000.0
# The event is followed for so long at the most: flyers coast for hundreds of ns.
LONGEST_EVENT = 1.5e-6
# Above this frequency (about 200 m/s) a beat has whole periods within a few ns.
FAST = 250e6
# Standard deviation (s) of the smoothing that gives the carrier beside a fast and beside a slow target, and the share
# of it that the target's own light leaves in it, as measured on synthetic shots.
CARRIER_SMOOTHING = {True: 18e-9, False: 60e-9}
CARRIER_LEAK = {True: 0.001, False: 0.0025}
# Width kept on each side of the frequencies seen.
MARGIN = 2.5e9
# Lengths of the frames that look for motion: short ones for fast targets, long ones for slow targets, whose beat
# would not leave the carrier's own bin in a short frame.
FRAME_LENGTHS = (8e-9, 24e-9, 64e-9)


class NoEvent(Exception):
    """No shot in this record; the message is the reason."""


class Event(msgspec.Struct):
    """A shot found: its carrier, its light followed, and how quiet the record is. SI units."""

    spectrum: Spectrum
    carrier: Carrier
    tracked: Tracked
    velocity: FloatArray
    sigma: FloatArray
    kernel: float
    onset: float
    end: float
    noise: float
    to_velocity: float
    rest: float
    carrier_amplitude: float
    baseline: tuple[float, float]
    top_frequency: float
    flags: list[str]
    walk_width: float = 0.0
    """Above this time (s, standard deviation) the walk of the laser's phase was taken out; 0: not at all."""

    @property
    def t(self) -> FloatArray:
        """Times of the velocity history."""
        return self.tracked.band.t

    @property
    def carrier_slack(self) -> float:
        """Standard deviation (V) of each component of the carrier that was subtracted.

        White noise under a Gaussian of standard deviation s leaves noise dt / (4 sqrt(pi) s) in each component.
        """
        fast = self.top_frequency > FAST
        white = self.noise * self.tracked.band.dt / (4 * math.sqrt(math.pi) * CARRIER_SMOOTHING[fast])
        return math.hypot(math.sqrt(white), CARRIER_LEAK[fast] * self.carrier_amplitude)


def locate(volts: FloatArray, start: float, dt: float, to_velocity: float) -> Event:
    """Find and follow the event of one record. ``to_velocity`` is lambda / (2 cos theta), m/s per Hz.

    Raises NoEvent with a plain reason.
    """
    flags: list[str] = []
    if volts.size < 400:
        raise NoEvent(f"the record has only {volts.size} samples, too few for a carrier and an event")
    if float(np.ptp(volts)) <= 0:
        raise NoEvent("the signal is constant: nothing was connected, or the range was wrong")
    volts = _level(volts)
    spectrum = Spectrum(volts, start, dt)
    refusal: NoEvent | None = None
    for line in _carriers(volts, dt):
        carrier, power = line
        above = min(0.97 * spectrum.nyquist - carrier, FASTEST / to_velocity)
        if above < 60e6:
            refusal = refusal or NoEvent(
                f"the carrier at {carrier / 1e9:.3f} GHz leaves no room below half the sample rate "
                f"({spectrum.nyquist / 1e9:.3f} GHz) for a moving target"
            )
            continue
        wide = spectrum.band(carrier, min(1.0e9, 0.85 * carrier), above)
        try:
            first, last, top = _search(wide, to_velocity)
            break
        except NoEvent as nothing:
            refusal = refusal or nothing
    else:
        raise refusal or NoEvent("no carrier line stands above the noise")
    # The baseline ends some time before the event: amplitudes change before the surface does.
    began = start + min(10e-9, 0.02 * (first - start))
    guard = min(30e-9, 0.3 * max(first - began, 0.0))
    quiet = (began, first - guard)
    if quiet[1] - quiet[0] < 25e-9:
        flags.append("short_baseline")
        if quiet[1] - quiet[0] < 4e-9:
            raise NoEvent("the event begins at the edge of the record: no light at rest to measure the carrier from")
    narrow = spectrum.band(carrier, min(60e6, 0.5 * carrier), 60e6).cut(*quiet)
    if narrow.z.size < 16:
        narrow = wide.cut(*quiet)
    fine = _fine_carrier(spectrum, narrow, carrier, volts, (first, last, top), flags)
    fine.over_noise = power
    if not math.isfinite(fine.frequency):
        raise NoEvent("no steady carrier before the event: its phase does not run evenly")
    # A sharp corner of the velocity spreads the light's spectrum; what the band cuts off would round it again.
    band = spectrum.band(fine.frequency, min(0.9 * fine.frequency, MARGIN), min(top + MARGIN, above))
    base = band.cut(*quiet)
    noise = _noise(base)
    rest = complex(band.cut(quiet[1] - min(40e-9, quiet[1] - quiet[0]), quiet[1]).z.mean())
    low = max(start, first - 80e-9)
    high = min(start + dt * volts.size, last + 15e-9, first + LONGEST_EVENT)
    window = band.cut(low, high)
    if window.z.size < 32:
        raise NoEvent("the event is cut off by the end of the record")
    if high >= start + dt * (volts.size - 2) and last + 15e-9 >= high:
        flags.append("event_cut_off") if last - first < 60e-9 else None
    tracked, onset = _follow(window, first, min(last, high), top, noise, rest)
    walk_width = 0.0
    if top > FAST and fine.diffusion > 0:
        window, walk_width = _steadied(tracked, onset, min(last, high), fine.diffusion, noise)
        still = (window.t > quiet[1] - 40e-9) & (window.t < quiet[1])
        if walk_width and still.any():
            rest = complex(window.z[still].mean())
            tracked, onset = _follow(window, first, min(last, high), top, noise, rest)
    amplitude = max(float(np.median(tracked.amplitude[tracked.band.t > onset])), 1e-30)
    kernel = _kernel(noise, amplitude, band.dt, to_velocity, top)
    v = slope_velocity(tracked, kernel, to_velocity)
    sigma = _sigma(tracked, kernel, noise, fine, to_velocity)
    return Event(
        spectrum, fine, tracked, v, sigma, kernel, onset, min(last, high), noise, to_velocity, abs(rest),
        float(np.median(np.abs(tracked.carrier))), quiet, top, flags, walk_width,
    )  # fmt: skip


def _level(volts: FloatArray) -> FloatArray:
    """The record less its straight trend, whose jump from end to start would look like light at all frequencies."""
    x = np.linspace(-0.5, 0.5, volts.size)
    slope = float(x @ (volts - volts.mean())) / float(x @ x)
    level = volts - volts.mean() - slope * x
    if float(np.ptp(level)) < 1e-6 * float(np.ptp(volts)):
        raise NoEvent("the signal is a straight line: nothing was connected")
    return np.asarray(level)


def _carriers(volts: FloatArray, dt: float) -> list[tuple[float, float]]:
    """(frequency, power over noise) of lines that may be the carrier: before the event first, then of the whole record.

    At rest target and carrier may nearly cancel, and then a spur of the scope is stronger than both.
    """
    low = max(LOWEST_CARRIER, 8 / (volts.size * dt))
    head = max(400, volts.size // 5)
    found: list[tuple[float, float]] = []
    for part in (volts[:head], volts):
        carrier, power = coarse_carrier(part, dt, low)
        if power >= CARRIER_OVER_NOISE and not any(abs(carrier - other) < 20e6 for other, _ in found):
            found.append((carrier, power))
    if not found:
        raise NoEvent("no carrier line stands above the noise: no light, or its frequency is outside the band")
    return found


def _search(wide: Band, to_velocity: float) -> tuple[float, float, float]:
    """(start, end, highest frequency above the carrier) of the event, roughly."""
    found: list[tuple[float, float, float, float]] = []
    for length in FRAME_LENGTHS:
        if length > 0.25 * wide.dt * wide.z.size:
            continue
        times, hits, frequency = moving(wide, length)
        run = first_run(hits, 4 if length < 1e-8 else 3, max(2, round(30e-9 / length)))
        if run is None:
            continue
        part = slice(run[0], run[1] + 1)
        tops = frequency[part][hits[part]]
        found.append(
            (float(times[run[0]]), float(times[run[1]]) + 0.25 * length, float(np.percentile(tops, 95)), length)
        )
    if not found:
        slowest = 2.5 / FRAME_LENGTHS[-1] * to_velocity
        raise NoEvent(
            f"no motion found: nothing but the carrier stands above the noise (slowest to see: {slowest:.0f} m/s)"
        )
    # Short frames tell the start best. A longer one counts where all of it lies before: slow motion came first.
    first = found[0][0] - 0.25 * found[0][3]
    for centre, _, _, length in found[1:]:
        if centre + 0.5 * length < first:
            first = centre
    same = [item for item in found if item[0] < first + 150e-9]
    return first, max(item[1] for item in same), max(item[2] for item in same)


def _fine_carrier(
    spectrum: Spectrum, narrow: Band, carrier: float, volts: FloatArray, event: tuple[float, float, float],
    flags: list[str],
) -> Carrier:  # fmt: skip
    """The carrier from the rest before the event, or from the event itself where that is the better source.

    At rest, the light of target and carrier may nearly cancel; once the target moves, the carrier stands alone.
    """
    first, last, top = event
    fine = refine_carrier(narrow, carrier)
    steady = _steady(narrow) and abs(fine.frequency - carrier) < 40e6
    if top > FAST and last - first > 150e-9:
        other, _ = coarse_carrier(volts, spectrum.dt, 0.8 * carrier)
        if abs(other - carrier) < 20e6:
            late = spectrum.band(other, 60e6, 60e6).cut(first + 30e-9, last - 20e-9)
            if late.z.size >= 16 and _steady(late):
                after = refine_carrier(late, other)
                if not steady or after.sigma < 0.5 * fine.sigma:
                    if not steady:
                        flags.append("carrier_weak_at_rest")
                    return after
    if not steady:
        raise NoEvent("no steady carrier before the event: its strength comes and goes, or its phase runs unevenly")
    return fine


def _steady(narrow: Band) -> bool:
    """Whether the carrier is a line all through the baseline, not a burst or the edge of something slow."""
    count = max(4, round(30e-9 / narrow.dt))
    blocks = narrow.z.size // count
    if blocks < 3:
        return True
    z = narrow.z[: blocks * count].reshape(blocks, count)
    power = np.mean(np.abs(z) ** 2, axis=1)
    line = np.abs(z.mean(axis=1)) ** 2
    # Even where target and carrier nearly cancel, noise leaves a third of the power in the mean over 30 ns.
    return bool(np.median(line / np.maximum(power, 1e-300)) > 0.3 and np.median(power) > 0.2 * power.mean())


def _noise(base: Band) -> float:
    """Mean of |noise|^2 per sample of the resting band, its slow part taken off."""
    count = max(4, round(12e-9 / base.dt))
    blocks = max(1, base.z.size // count)
    z = base.z[: blocks * count].reshape(blocks, -1) if base.z.size >= count else base.z[None, :]
    left = z - z.mean(axis=1, keepdims=True)
    free = max(1, z.shape[1] - 1) / z.shape[1]
    return float(max(np.median(np.mean(np.abs(left) ** 2, axis=1)) / free, 1e-30))


def _follow(window: Band, first: float, last: float, top: float, noise: float, rest: complex) -> tuple[Tracked, float]:
    """The moving light and the rough start of motion."""
    fast = top > FAST
    length, width = (6e-9, 1.2e-9) if fast else (14e-9, 3.0e-9)
    slow = CARRIER_SMOOTHING[fast]
    t = window.t
    after = (t > first + 3e-9) & (t < last)
    if fast and after.sum() * window.dt > 2 * slow:
        start = _running_carrier(window, after, slow)
    else:
        part = window.z[after]
        taper = np.sin(np.pi * (np.arange(part.size) + 0.5) / part.size) ** 2 if part.size else np.ones(1)
        start = np.full(t.size, complex(np.sum(part * taper) / taper.sum()) if part.size else rest)
    guess = Band(window.z - start, window.start, window.dt, window.lowest)
    when, frequency = ridge(guess, length, -0.5 / length, top * 1.3 + 1 / length, noise)
    line = np.interp(t, when, frequency)
    tracked = track(window, first, last, line, rest, width=width, slow_carrier=slow,
                    carrier_start=complex(start[min(t.size - 1, int(np.argmax(after)))]))  # fmt: skip
    onset = _rough_onset(tracked, first, last)
    # Once more with the better start, for the carrier's own window.
    tracked = track(window, onset, last, tracked.frequency, rest, width=width, slow_carrier=slow, rounds=3,
                    carrier_start=complex(tracked.carrier[int(np.searchsorted(t, onset)) - 1]))  # fmt: skip
    return tracked, _rough_onset(tracked, first, last)


def _steadied(
    tracked: Tracked, onset: float, last: float, diffusion: float, noise: float
) -> tuple[Band, float]:  # fmt: skip
    """(the window turned back by the walk of the laser's phase, standard deviation in s of the smoothing used).

    Light that moved and light that did not come from one laser, so the carrier beside the moving light shows the walk
    that both share. Smoothing over w leaves N / (2 sqrt(pi) w) of the white noise N (rad^2 s) and adds the walk within
    w; the best w is near sqrt(N / q) for a diffusion q, unless the moving light asks for more to stay apart. The width
    is 0 where nothing is gained.
    """
    band = tracked.band
    t, z, dt = band.t, band.z, band.dt
    before, after = t < onset - 2e-9, (t > onset + 2e-9) & (t < last)
    if before.sum() < 16 or after.sum() < 16:
        return band, 0.0
    strength = float(np.median(np.abs(tracked.carrier[after])))
    white = noise / 2 / max(strength, 1e-30) ** 2 * dt
    slowest = float(np.percentile(tracked.frequency[after], 10))
    width = max(math.sqrt(white / diffusion), 0.6 / max(slowest, 1e6))
    at_rest = abs(complex(z[before][-round(20e-9 / dt) :].mean()))
    # A resting phasor that target and carrier nearly cancel has no steady phase.
    if width > 6e-9 or at_rest < 0.3 * strength:
        return band, 0.0
    left = z - tracked.amplitude * np.exp(1j * tracked.phase)
    # The moving light is taken away first, so that what the smoothing still lets through is second to it.
    apart = after & (tracked.frequency > 0.35 / width)
    if apart.sum() * dt < 10 * width:
        return band, 0.0
    inside = t[apart]
    moving = slow_mean(left, apart.astype(np.float64), dt, width, inside[0] - t[0], inside[-1] - t[0])
    resting = slow_mean(z, before.astype(np.float64), dt, width, 0.0, float(t[before][-1] - t[0]))
    # The two phasors differ by the target's own at rest; the walk itself does not jump.
    a, b = np.unwrap(np.angle(resting)), np.unwrap(np.angle(moving))
    walk = np.where(t < onset, a - a[before][-1], b - b[apart][0])
    return Band(z * np.exp(-1j * walk), band.start, dt, band.lowest), width


def _running_carrier(window: Band, after: BoolArray, slow: float) -> ComplexArray:
    t = window.t
    inside = t[after]
    return slow_mean(window.z, after.astype(np.float64), window.dt, slow, inside[0] - t[0], inside[-1] - t[0])


def _rough_onset(tracked: Tracked, first: float, last: float) -> float:
    """Where the frequency, followed back from its first high stretch, leaves rest."""
    t, f = tracked.band.t, tracked.frequency
    inside = np.flatnonzero((t > first - 25e-9) & (t < min(last, first + 90e-9)))
    if inside.size < 3:
        return first
    level = float(np.percentile(f[inside], 95))
    above = inside[f[inside] > 0.6 * level]
    k = int(above[0]) if above.size else int(inside[0])
    # The frames that found the motion say when it began to a quarter of their length.
    earliest = first - (7e-9 if level > FAST else 40e-9)
    while k > 0 and f[k] > 0.12 * level and t[k] > earliest:
        k -= 1
    return float(t[k])


def _kernel(noise: float, amplitude: float, dt: float, to_velocity: float, top: float) -> float:
    """Standard deviation (s) of the kernel of the drawn history, from noise and dynamics.

    Noise falls as s^(-3/2), rounding of a corner grows as s; their squares add to a least value. The corner is one
    that changes by the highest velocity within 25 ns, a usual spall signal.
    """
    unit = slope_noise(dt, 1e-9) * to_velocity * math.sqrt(noise / 2) / amplitude
    steepness = max(top * to_velocity, 10.0) / 25.0 / math.sqrt(2 * math.pi)
    best = (1.5 * unit**2 / steepness**2) ** 0.2
    return float(np.clip(best, max(0.35, 0.9 * dt * 1e9), 3.0) * 1e-9)


def _sigma(tracked: Tracked, kernel: float, noise: float, carrier: Carrier, to_velocity: float) -> FloatArray:
    """Standard deviation of the history at each time, m/s: noise, the laser's phase, the carrier."""
    amplitude = np.maximum(tracked.amplitude, 1e-3 * float(tracked.amplitude.max()) + 1e-30)
    white = slope_noise(tracked.band.dt, kernel) * np.sqrt(noise / 2) / amplitude
    # Mean square of the slope of a random walk under this kernel: q / (2 sqrt(pi) s), here in Hz.
    walk = math.sqrt(carrier.diffusion / (2 * math.sqrt(math.pi) * kernel)) / (2 * math.pi)
    return np.asarray(to_velocity * np.sqrt(white**2 + walk**2 + carrier.sigma**2))
