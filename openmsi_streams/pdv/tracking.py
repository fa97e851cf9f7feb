"""Ridge, carrier subtraction and the velocity history: where the moving light is, and how fast it moves."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from openmsi_streams.pdv.spectral import Band, frames
from openmsi_streams.pdv.trace import BoolArray, ComplexArray, FloatArray


class Tracked(msgspec.Struct):
    """The moving light in a window. ``y`` is the band less the carrier; ``frequency`` Hz; ``phase`` radians."""

    band: Band
    y: ComplexArray
    carrier: ComplexArray
    frequency: FloatArray
    phase: FloatArray
    amplitude: FloatArray


def gaussian(dt: float, sigma: float) -> FloatArray:
    """Normalised Gaussian kernel, cut at six sigma: at four, a derivative would come out 0.11 % small."""
    reach = max(1, math.ceil(6 * sigma / dt))
    x = dt * np.arange(-reach, reach + 1)
    g = np.exp(-0.5 * (x / sigma) ** 2)
    return np.asarray(g / g.sum())


def _folded(values: ComplexArray, kernel: FloatArray) -> ComplexArray:
    """Convolution of the same length, normalised at the edges."""
    if kernel.size > values.size:
        cut = (kernel.size - values.size + 1) // 2 + 1
        kernel = kernel[cut:-cut] if kernel.size > 2 * cut else np.ones(1)
    folded = np.convolve(values, kernel, "same")
    return np.asarray(folded / np.convolve(np.ones(values.size), kernel, "same"))


def ridge(band: Band, length: float, lowest: float, highest: float, noise: float) -> tuple[FloatArray, FloatArray]:
    """(times, frequency of the strongest continuous line in Hz).

    The path with the largest sum of log power over noise, less a price for every jump from frame to frame (Viterbi).
    A jump of any size has a bounded price: a shock is a jump.
    """
    made = frames(band, length, min(1e-9, length / 4), pad=2)
    chosen = (made.frequencies >= lowest) & (made.frequencies <= highest)
    f = made.frequencies[chosen]
    score = np.log(1 + made.power[:, chosen] / max(noise, 1e-300))
    rows, bins = score.shape
    if bins < 3:
        return made.times, np.zeros(rows)
    reach, price, most = 8, 0.3, 6.0
    total = score[0].copy()
    back = np.zeros((rows, bins), dtype=np.int32)
    index = np.arange(bins)
    toll = price * np.abs(np.arange(-reach, reach + 1))
    padded = np.full(bins + 2 * reach, -np.inf)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    for row in range(1, rows):
        padded[reach : reach + bins] = total
        reached = around - toll
        step = np.argmax(reached, axis=1)
        best = reached[index, step]
        peak = int(np.argmax(total))
        jump = best < total[peak] - most
        back[row] = np.where(jump, peak, index + step - reach)
        total = np.where(jump, total[peak] - most, best) + score[row]
    path = np.zeros(rows, dtype=np.int64)
    path[-1] = int(np.argmax(total))
    for row in range(rows - 1, 0, -1):
        path[row - 1] = back[row, path[row]]
    inner = np.clip(path, 1, bins - 2)
    r = np.arange(rows)
    left, middle, right = score[r, inner - 1], score[r, inner], score[r, inner + 1]
    curve = left - 2 * middle + right
    between = np.where(curve < -1e-9, 0.5 * (left - right) / np.where(curve < -1e-9, curve, -1.0), 0.0)
    return made.times, f[inner] + np.clip(between, -1, 1) * (f[1] - f[0])


def track(
    band: Band, onset: float, end: float, first: FloatArray, resting: complex, *, width: float, slow_carrier: float,
    rounds: int = 4, carrier_start: complex | None = None,
) -> Tracked:  # fmt: skip
    """Follow the light that moves after ``onset`` (s), starting from a frequency guess ``first`` on the band's grid.

    In turn: turn the light back by the guess, smooth (Gaussian, ``width`` s), improve the guess by the phase that is
    left; take the moving light away from the whole and average what stays: the carrier, a phasor that may wander
    slowly (``slow_carrier`` s). Subtracting it, rather than a notch, keeps slow targets and weak ones whole.
    """
    t, z, dt = band.t, band.z, band.dt
    after = (t > onset) & (t < end)
    kernel = gaussian(dt, width)
    frequency = first.copy()
    carrier = np.full(z.size, complex(resting) if carrier_start is None else complex(carrier_start))
    target = np.zeros_like(z)
    phase = np.zeros(z.size)
    for round_ in range(rounds):
        phase = 2 * np.pi * dt * (np.cumsum(frequency) - 0.5 * frequency)
        y = z - carrier
        base = _folded(y * np.exp(-1j * phase), kernel)
        target = base * np.exp(1j * phase)
        # What leans on the target's own frequency is taken out; frequencies near the carrier's cannot be told apart.
        far = 1 - np.exp(-((frequency * slow_carrier * 0.6) ** 2))
        weight = np.where(after, far, 0.0)
        if weight.sum() * dt > 3e-9:
            # Averaging wants a window that lets no target through: a smooth one, over all of the event.
            left = z - target
            carrier = slow_mean(left, weight, dt, slow_carrier, float(onset - band.start), float(end - band.start))
            y = z - carrier
        base = _folded(y * np.exp(-1j * phase), kernel)
        residual = np.unwrap(np.angle(base))
        change = np.gradient(residual, dt) / (2 * np.pi)
        change = _folded(change.astype(np.complex128), kernel).real
        frequency = frequency + np.clip(change, -0.4 / width, 0.4 / width) * (1.0 if round_ else 0.8)
    phase = 2 * np.pi * dt * (np.cumsum(frequency) - 0.5 * frequency)
    y = z - carrier
    base = _folded(y * np.exp(-1j * phase), kernel)
    phase = phase + np.unwrap(np.angle(base))
    return Tracked(band, y, carrier, frequency, phase, np.abs(base))


def slow_mean(
    values: ComplexArray, weight: FloatArray, dt: float, sigma: float, onset: float, end: float
) -> ComplexArray:
    """Weighted running mean; constant before ``onset`` and after ``end`` (both seconds from the first sample)."""
    kernel = gaussian(dt, sigma)
    # The kernel is as long as the event; a long one goes through the transform.
    size = values.size + kernel.size
    spectrum = np.fft.fft(kernel, size)
    top = np.fft.ifft(np.fft.fft(values * weight, size) * spectrum)
    bottom = np.fft.ifft(np.fft.fft(weight, size) * spectrum).real
    middle = slice(kernel.size // 2, kernel.size // 2 + values.size)
    mean = top[middle] / np.maximum(bottom[middle], 1e-9)
    # A few sigma/3 inside the event the mean is two-sided enough; outside it is held.
    a = int(np.clip(round(onset / dt), 0, values.size - 1))
    b = int(np.clip(round(end / dt), a, values.size - 1))
    mean[:a] = mean[a]
    mean[b + 1 :] = mean[b]
    return np.asarray(mean)


def slope_velocity(tracked: Tracked, sigma: float, to_velocity: float) -> FloatArray:
    """Velocity (m/s) by the slope of the phase under a Gaussian kernel of standard deviation ``sigma`` seconds."""
    dt = tracked.band.dt
    reach = max(2, math.ceil(6 * sigma / dt))
    x = dt * np.arange(-reach, reach + 1)
    g = np.exp(-0.5 * (x / sigma) ** 2)
    # Slope of a weighted straight line; exact for a ramp of phase on any grid, however few samples the kernel has.
    kernel = x * g / float(np.sum(x * x * g))
    padded = np.concatenate([
        tracked.phase[0] + (tracked.phase[1] - tracked.phase[0]) * np.arange(-reach, 0),
        tracked.phase,
        tracked.phase[-1] + (tracked.phase[-1] - tracked.phase[-2]) * np.arange(1, reach + 1),
    ])  # fmt: skip
    slope = np.convolve(padded, kernel[::-1], "valid")
    return np.asarray(to_velocity * slope / (2 * np.pi))


def slope_noise(dt: float, sigma: float) -> float:
    """Standard deviation of the frequency (Hz) by such a kernel for white phase noise of 1 rad per sample.

    For a long kernel this is sqrt(dt / (4 sqrt(pi))) sigma^(-3/2) / (2 pi), the single-tone bound's law.
    """
    reach = max(2, math.ceil(6 * sigma / dt))
    x = dt * np.arange(-reach, reach + 1)
    g = np.exp(-0.5 * (x / sigma) ** 2)
    kernel = x * g / float(np.sum(x * x * g))
    return float(np.sqrt(np.sum(kernel**2))) / (2 * np.pi)


def turns(v: FloatArray, threshold: float, valid: BoolArray) -> list[tuple[int, int]]:
    """Alternating (index, +1 maximum or -1 minimum) that differ from their neighbours by more than ``threshold``."""
    found: list[tuple[int, int]] = []
    index = np.flatnonzero(valid)
    if index.size == 0:
        return found
    high = low = int(index[0])
    rising: bool | None = None
    for k in index.tolist():
        if v[k] > v[high]:
            high = k
        if v[k] < v[low]:
            low = k
        if rising is not False and v[high] - v[k] > threshold:
            found.append((high, 1))
            rising, low = False, k
            high = k
        elif rising is not True and v[k] - v[low] > threshold:
            if rising is False:
                found.append((low, -1))
            rising, high = True, k
            low = k
    return found
