"""From a record to the complex signal around its carrier, the carrier itself, and where something moves.

Everything works on one Fourier transform of the record: a band of it, shifted and transformed back, is the analytic
signal mixed down and decimated in one step, with no filter of our own to ring or to delay.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from openmsi_streams.pdv.trace import BoolArray, ComplexArray, FloatArray

# Below this the line is mains hum, a window artefact, or the sum beat of a homodyne set-up, which is not upshifted.
LOWEST_CARRIER = 100e6
# A carrier must stand this far (power) above the median of its surroundings; the largest of 1e5 noise bins stands
# ln(1e5) / ln 2 = 17 above.
CARRIER_OVER_NOISE = 40.0
# A frame holds a moving target when its strongest bin is this far above the mean noise of that bin; in noise alone
# one frame of 100 bins reaches it once in 1e6.
EVENT_OVER_NOISE = 18.0
# The upper sideband must beat the lower one by this factor: a change of amplitude is symmetric, motion is not.
SIDEBAND_RATIO = 4.0


def fast_length(n: int) -> int:
    """The smallest number from ``n`` on that has no prime factor above 5: such transforms are quick.

    LeCroy's records have two samples more than a round number, often twice a large prime.
    """
    best = 1 << max(0, (n - 1).bit_length())
    five = 1
    while five < best:
        three = five
        while three < best:
            rest = -(-n // three)
            best = min(best, three << max(0, (rest - 1).bit_length()))
            three *= 3
        five *= 5
    return best


class Band(msgspec.Struct):
    """Complex signal with the carrier at frequency zero: z at times ``start + dt * k``, seconds.

    It holds frequencies from ``lowest`` to ``lowest + 1 / dt`` Hz about the carrier, not half on each side.
    """

    z: ComplexArray
    start: float
    dt: float
    lowest: float

    @property
    def t(self) -> FloatArray:
        """Times of the samples, in seconds."""
        return np.asarray(self.start + self.dt * np.arange(self.z.size), dtype=np.float64)

    def cut(self, low: float, high: float) -> Band:
        """The part between two times."""
        a = max(0, math.ceil((low - self.start) / self.dt))
        b = min(self.z.size, math.floor((high - self.start) / self.dt) + 1)
        return Band(self.z[a : max(a, b)], self.start + a * self.dt, self.dt, self.lowest)


class Spectrum:
    """The Fourier transform of one record."""

    def __init__(self, volts: FloatArray, start: float, dt: float) -> None:
        self.n = volts.size
        self.padded = fast_length(self.n)
        self.start, self.dt = start, dt
        self.mean = float(volts.mean())
        self.lines: ComplexArray = np.fft.rfft(volts - self.mean, self.padded)
        self.step = 1.0 / (self.padded * dt)

    @property
    def nyquist(self) -> float:
        """Highest frequency, Hz."""
        return 0.5 / self.dt

    def band(self, carrier: float, below: float, above: float) -> Band:
        """Analytic signal from ``carrier - below`` to ``carrier + above`` (Hz), mixed down by ``carrier``.

        The edges of the band, a twentieth on each side, are tapered; what is inside is untouched.
        """
        low = max(1, math.ceil((carrier - below) / self.step))
        high = min(self.lines.size - 1, math.floor((carrier + above) / self.step))
        count = max(8, high - low)
        size = fast_length(count)
        part = np.zeros(size, dtype=np.complex128)
        chosen = self.lines[low : low + count]
        part[: chosen.size] = chosen
        edge = max(1, count // 20)
        ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
        part[:edge] *= ramp
        part[count - edge : count] *= ramp[::-1]
        z = np.fft.ifft(part) * (2.0 * size / self.padded)
        dt = self.padded * self.dt / size
        keep = min(size, math.floor((self.n - 1) * self.dt / dt) + 1)
        t = dt * np.arange(keep)
        # Bin `low` sits at frequency zero after the transform; bring the carrier there instead.
        z = z[:keep] * np.exp(2j * np.pi * (low * self.step - carrier) * t)
        # Phase zero at the time origin of the record's axis, so that phasors of different bands agree.
        z = np.asarray(z * np.exp(-2j * np.pi * carrier * self.start))
        return Band(z, self.start, dt, low * self.step - carrier)


class Carrier(msgspec.Struct):
    """The line of the light that has not moved. Hz, Hz, 1/s (diffusion of its phase, rad^2 per second), Hz."""

    frequency: float
    sigma: float
    diffusion: float = 0.0
    drift: float = 0.0
    over_noise: float = 0.0


def coarse_carrier(volts: FloatArray, dt: float, low: float = LOWEST_CARRIER) -> tuple[float, float]:
    """(frequency in Hz, power over the median power) of the strongest line of ``volts``; (0, 0) when there is none.

    The peak of a Hann spectrum is interpolated with the ratio of its neighbours (Grandke 1983), good to a few
    hundredths of a bin.
    """
    n = volts.size
    if n < 64:
        return 0.0, 0.0
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n)
    padded = fast_length(n)
    spectrum = np.abs(np.fft.rfft((volts - volts.mean()) * window, padded))
    step = 1.0 / (padded * dt)
    first = max(3, math.ceil(low / step))
    if first + 8 >= spectrum.size:
        return 0.0, 0.0
    k = first + int(np.argmax(spectrum[first:-2]))
    near = spectrum[max(first, k - spectrum.size // 6) : k + spectrum.size // 6]
    floor = float(np.median(near**2))
    power = float(spectrum[k] ** 2)
    if power <= 0:
        return 0.0, 0.0
    side = 1 if spectrum[k + 1] >= spectrum[k - 1] else -1
    ratio = float(spectrum[k + side] / spectrum[k])
    shift = side * max(0.0, min(1.0, (2 * ratio - 1) / (ratio + 1))) * padded / n
    return (k + shift) * step, power / floor if floor > 0 else math.inf


def refine_carrier(band: Band, frequency: float) -> Carrier:
    """Carrier from the phase of the resting part of a record; ``band`` is mixed down by ``frequency``.

    Straight line through the phase of block means, weighted alike. White noise gives the single-tone bound (Rife and
    Boorstyn 1974); what the blocks scatter beyond it is taken for a random walk of the laser's phase.
    """
    n = band.z.size
    blocks = max(4, min(64, n // 8))
    size = n // blocks
    if size < 1 or n < 16:
        return Carrier(frequency, 1.0 / max(band.dt * n, 1e-12))
    z = band.z[: blocks * size].reshape(blocks, size)
    rough = np.angle(np.sum(band.z[1:] * np.conj(band.z[:-1]))) / band.dt
    t = band.dt * np.arange(blocks * size).reshape(blocks, size)
    turned = z * np.exp(-1j * rough * t)
    means = turned.mean(axis=1)
    phase = np.unwrap(np.angle(means))
    when = t.mean(axis=1)
    x = when - when.mean()
    norm = float(x @ x)
    slope = float(x @ phase) / norm
    residual = phase - phase.mean() - slope * x
    # White part: scatter inside the blocks.
    inside = turned * np.exp(-1j * slope * (t - when[:, None]))
    inside = inside - inside.mean(axis=1, keepdims=True)
    power = float(np.mean(np.abs(means) ** 2))
    white = float(np.mean(np.abs(inside) ** 2)) * size / max(1, size - 1) / (2 * size * power) if power > 0 else 1.0
    # Differences of a random walk grow with time, those of white noise do not.
    lag = max(1, blocks // 8)
    gap = float(when[1] - when[0]) if blocks > 1 else band.dt
    step = residual[lag:] - residual[:-lag]
    diffusion = max(0.0, (float(np.mean(step**2)) - 2 * white) / (lag * gap))
    # Blocks are few, and a line through few of them takes much of a walk away. Where the walk stands out between single
    # samples, their differences tell of it more surely: white noise adds alike to those of one and of four samples.
    fine = np.unwrap(np.angle((turned * np.exp(-1j * slope * (t - when.mean()))).ravel()))
    one, four = (float(np.mean((fine[k:] - fine[:-k]) ** 2)) for k in (1, 4))
    if four > 2 * one:
        diffusion = (four - one) / (3 * band.dt)
    sigma_white = math.sqrt(white / norm)
    span = float(when[-1] - when[0])
    # Slope of a line through a random walk of diffusion q over a span T: variance 6 q / (5 T).
    sigma_walk = math.sqrt(1.2 * diffusion / span)
    half = blocks // 2
    slopes = [float(np.polyfit(when[a:b], phase[a:b], 1)[0]) for a, b in ((0, half), (half, blocks))]
    turn = 2 * math.pi
    return Carrier(
        frequency + (rough + slope) / turn, math.hypot(sigma_white, sigma_walk) / turn, diffusion,
        (slopes[1] - slopes[0]) / turn,
    )  # fmt: skip


class Frames(msgspec.Struct):
    """Power of short frames: ``power`` of shape (frames, bins), at ``times`` (centres, s) and ``frequencies`` (Hz)."""

    power: FloatArray
    times: FloatArray
    frequencies: FloatArray


def frames(band: Band, length: float, hop: float, pad: int = 1) -> Frames:
    """Hann-windowed power spectra of ``length`` seconds, ``hop`` seconds apart, zero-padded ``pad`` times."""
    n = max(8, round(length / band.dt))
    step = max(1, round(hop / band.dt))
    z = band.z
    if z.size < n:
        z = np.concatenate([z, np.zeros(n - z.size, dtype=z.dtype)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n)
    window /= math.sqrt(float(window @ window))
    view = np.lib.stride_tricks.sliding_window_view(z, n)[::step]
    size = fast_length(n * pad)
    power = np.abs(np.fft.fft(view * window, size, axis=1)) ** 2
    frequencies = band.lowest + np.mod(np.fft.fftfreq(size, band.dt) - band.lowest, 1.0 / band.dt)
    order = np.argsort(frequencies)
    times = band.start + band.dt * (step * np.arange(view.shape[0]) + 0.5 * (n - 1))
    return Frames(np.asarray(power[:, order]), np.asarray(times), np.asarray(frequencies[order], np.float64))


def moving(band: Band, length: float) -> tuple[FloatArray, BoolArray, FloatArray]:
    """(times, whether a frame of ``length`` s holds a moving target, its frequency above the carrier in Hz)."""
    made = frames(band, length, length / 2)
    bins = 1.0 / length
    f = made.frequencies
    # Each bin's noise from its quiet frames: the 30th percentile of an exponential law is 0.357 of its mean. Lines
    # that are always there (spurs, the skirt of the carrier) are thereby taken for noise, as they should be.
    noise = np.percentile(made.power, 30, axis=0) / 0.357
    floor = float(np.median(noise)) if noise.size else 0.0
    over = made.power / np.maximum(noise, 0.5 * floor + 1e-300)
    up = f > 2.5 * bins
    if not up.any() or made.power.shape[0] < 4:
        return made.times, np.zeros(made.times.size, dtype=bool), np.zeros(made.times.size)
    best = np.argmax(np.where(up, over, 0.0), axis=1)
    rows = np.arange(best.size)
    peak = over[rows, best]
    # The mirror bin below the carrier, where the band reaches down to it.
    mirror = np.searchsorted(f, -f[best])
    inside = (mirror >= 1) & (mirror < f.size - 1) & (-f[best] > f[0])
    safe = np.clip(mirror, 1, f.size - 2)
    below = np.maximum.reduce([made.power[rows, safe - 1], made.power[rows, safe], made.power[rows, safe + 1]])
    # From frame to frame a target's frequency changes by part of itself; a false hit may be anywhere in the band.
    near = np.abs(np.diff(f[best])) <= 0.5 * np.maximum(f[best][1:], f[best][:-1]) + 3 * bins
    followed = np.concatenate([near, [False]]) | np.concatenate([[False], near])
    one_sided = ~inside | (made.power[rows, best] > SIDEBAND_RATIO * below)
    return made.times, (peak > EVENT_OVER_NOISE) & one_sided & followed, f[best]


def first_run(hits: BoolArray, least: int, gap: int) -> tuple[int, int] | None:
    """(first, last) index of the first run of at least ``least`` hits, with gaps of up to ``gap`` between hits.

    A run begins and ends where three of four neighbours are hits: a lone false one beside it does not count.
    """
    index = np.flatnonzero(hits)
    if index.size == 0:
        return None
    for run in np.split(index, np.flatnonzero(np.diff(index) > gap + 1) + 1):
        if run.size < least:
            continue
        count = min(3, run.size)
        # Four frames that hold three hits span at most three steps.
        starts = [k for k in range(run.size - count + 1) if run[k + count - 1] - run[k] <= 3]
        if starts:
            return int(run[starts[0]]), int(run[starts[-1] + count - 1])
    return None
