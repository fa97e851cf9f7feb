"""The sheet of one shot: spectrogram with ridge, velocity history with marks, table of results, strip of flags."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import numpy as np

from openmsi_streams.pdv.canvas import SCALE, Canvas, Frame
from openmsi_streams.pdv.event import Event
from openmsi_streams.pdv.result import Quantity, ShotResult
from openmsi_streams.pdv.spectral import Band, frames

# Okabe and Ito's colours, told apart with any colour vision.
BLUE, ORANGE, GREEN, RED, SKY, PINK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
INK, PALE, GREY = "#222222", "#e8edf3", "#555555"

LABELS = {
    "peak_velocity": "Peak velocity",
    "pullback_minimum_velocity": "Pull-back minimum",
    "pullback_velocity": "Pull-back",
    "recompression_velocity": "Recompression",
    "spall_strength": "Spall strength",
    "spall_strength_elastic_plastic": "… elastic-plastic",
    "spall_strength_kanel": "… Kanel",
    "strain_rate": "Strain rate",
    "spall_thickness": "Spall thickness",
    "hel_velocity": "HEL velocity",
    "hel_stress": "HEL stress",
    "peak_stress": "Peak stress",
    "peak_stress_acoustic": "… acoustic",
    "impact_velocity": "Impact velocity",
    "impact_velocity_spread": "… spread",
    "carrier_frequency": "Carrier",
    "start_time": "Start",
}
TITLES = {
    "spall": "Spall", "no_spall": "No spall", "flyer": "Flyer", "no_shot": "No shot", "unreadable": "Not readable",
}  # fmt: skip
# Quantity, its time, corners of the mark (see `Canvas.mark`), colour.
_MARKS = {
    "peak": ("peak_velocity", "peak_time", 4, RED),
    "pull-back": ("pullback_minimum_velocity", "pullback_minimum_time", 0, BLUE),
    "recompression": ("recompression_velocity", "recompression_time", -4, GREEN),
}


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def rounded_text(quantity: Quantity) -> str:
    """Value and sigma with two digits of sigma, and the unit: ``837.4 ± 1.2 m/s``."""
    value, sigma, unit = quantity.value, quantity.sigma, quantity.unit
    if unit == "Hz":
        error = "" if not sigma else f" ± {sigma / 1e3:.2g} kHz" if sigma < 1e6 else f" ± {sigma / 1e6:.2g} MHz"
        return f"{value / 1e9:.6f} GHz{error}"
    elif unit == "s":
        value, sigma, unit = value * 1e9, None if sigma is None else sigma * 1e9, "ns"
    elif unit == "um":
        unit = "µm"
    if unit == "1/s" and value:
        power = math.floor(math.log10(abs(value)))
        scaled = Quantity(value / 10**power, "", None if sigma is None else sigma / 10**power)
        return f"({rounded_text(scaled).strip()})·10{str(power).translate(_RAISED)} 1/s"
    if not sigma or not math.isfinite(sigma):
        return f"{value:.4g} {unit}"
    digits = min(6, max(0, 1 - math.floor(math.log10(sigma))))
    return f"{value:.{digits}f} ± {sigma:.{digits}f} {unit}"


# Places of the two diagrams on the sheet: left, bottom, width, height.
_UPPER, _LOWER = (0.065, 0.565, 0.60, 0.325), (0.065, 0.145, 0.60, 0.345)


def draw_sheet(result: ShotResult, path: Path) -> None:
    """Write the sheet as PNG. The same result gives the same bytes."""
    path.write_bytes(make_sheet(result).png())


def make_sheet(result: ShotResult) -> Canvas:
    """The sheet of a result."""
    canvas = Canvas()
    _title(canvas, result)
    if isinstance(result.picture, Event):
        event = result.picture
        span = _span(event, result)
        _spectrogram(canvas, event, span)
        _velocity(canvas, event, result, span)
    else:
        for k, line in enumerate(textwrap.wrap(result.reason, 60)):
            canvas.add(0.365, 0.57 - 0.04 * k, line, 14, anchor="mm")
    _table(canvas, result)
    _strip(canvas, result)
    return canvas


def _scales(canvas: Canvas, frame: Frame, *, below: bool) -> None:
    """Frame, ticks and their labels; ``below``: with the time's, and lines across."""
    (x0, x1), (y0, y1) = frame.x, frame.y
    across, up = ticks(x0, x1, 9), ticks(y0, y1, 6)
    # Ticks are 7 pixels long. NaN parts one line from the next.
    dx, dy = 7 / frame.box.width * (x1 - x0), 7 / frame.box.height * (y1 - y0)
    gap = float("nan")
    if below:
        for lines in ([(at, at, gap, y0, y1, gap) for at in across], [(x0, x1, gap, at, at, gap) for at in up]):
            if lines:
                array = np.array(lines)
                points = frame.pixels(array[:, :3].ravel(), array[:, 3:].ravel())
                canvas.line(points, "#dddddd", 0.5, within=frame, snap=True)
    marks = [(at, at, gap, y0 - dy, y0, gap) for at in across] + [(x0 - dx, x0, gap, at, at, gap) for at in up]
    array = np.array([*marks, (x0, x1, gap, y0, y0, gap), (x0, x1, gap, y1, y1, gap), (x0, x0, gap, y0, y1, gap),
                      (x1, x1, gap, y0, y1, gap)])  # fmt: skip
    canvas.line(frame.pixels(array[:, :3].ravel(), array[:, 3:].ravel()), "#000000", 0.8, snap=True)
    left, bottom, _, height = frame.place
    for at, text in zip(up, labels_of(up), strict=True):
        canvas.add(left - 0.008, frame.up(at), text, 10, anchor="rm")
    canvas.add(0.008, bottom + height + 0.012, "Velocity (m/s)" if below else "m/s", 10)
    if below:
        for at, text in zip(across, labels_of(across), strict=True):
            canvas.add(frame.across(at), bottom - 0.014, text, 10, anchor="ma")
        canvas.add(left + 0.5 * frame.place[2], bottom - 0.046, "Time on the record's axis (ns)", 10, anchor="ma")


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two limits, at most ``most`` and evenly spaced by 1, 2 or 5 times a power of ten."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= most)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def labels_of(places: list[float]) -> list[str]:
    """Text of each tick, with as many decimals as their step needs."""
    step = places[1] - places[0] if len(places) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{at + 0.0:.{digits}f}".replace("-", "−") for at in places]


def _title(canvas: Canvas, result: ShotResult) -> None:
    name = result.name if len(result.name) <= 70 else result.name[:67] + "…"
    canvas.add(0.065, 0.952, TITLES.get(result.shot_class, result.shot_class), 17, bold=True)
    canvas.add(0.665, 0.952, name, 11.5, anchor="rs")
    if isinstance(result.picture, Event):
        reason = result.reason if len(result.reason) <= 110 else result.reason[:107] + "…"
        canvas.add(0.065, 0.917, reason, 10, GREY)


def _span(event: Event, result: ShotResult) -> tuple[float, float]:
    """Limits of the time axis in ns on the record's own axis: the event, with some rest before it."""
    start = _value(result, "start_time") or event.onset
    end = event.end
    if result.shot_class == "spall":
        last = max(filter(None, (_value(result, "recompression_time"), _value(result, "pullback_minimum_time"))),
                   default=start + 60e-9)  # fmt: skip
        end = min(end, start + max(1.9 * (last - start), 60e-9))
    elif result.shot_class == "no_spall":
        end = min(end, start + 150e-9)
    else:
        end = min(end, start + 700e-9)
    length = max(end - start, 10e-9)
    # Nothing was followed before the window, so there is nothing to show.
    return max(start - 0.12 * length, float(event.t[0])) * 1e9, (end + 0.02 * length) * 1e9


def _value(result: ShotResult, name: str) -> float | None:
    return result.quantities[name].value if name in result.quantities else None


def _spectrogram(canvas: Canvas, event: Event, span: tuple[float, float]) -> None:
    left, right = span
    band = event.tracked.band
    top = max(float(np.percentile(event.velocity[event.t > event.onset], 99.5)), 20.0) * 1.25
    low = -0.12 * top
    length = float(np.clip(2.2 * event.to_velocity / (top * 0.04), 3e-9, 24e-9))
    shown = band.cut(left * 1e-9 - length, right * 1e-9 + length)
    hop = (right - left) * 1e-9 / 420
    slow = top < 250.0
    if slow:
        # A slow target's beat lies within the carrier's own width: only without the carrier is there anything to see.
        clean = Band(event.tracked.y, band.start, band.dt, band.lowest)
        shown = clean.cut(left * 1e-9 - length, right * 1e-9 + length)
    bins = 1.0 / (length * max(top - low, 1.0) / event.to_velocity)
    if shown.start > left * 1e-9 - 0.5 * length:
        # The picture begins with the window: a frame's centre lies within it only with rest put before it.
        lead = math.ceil((shown.start - left * 1e-9 + 0.5 * length) / shown.dt)
        shown = Band(np.concatenate([np.full(lead, shown.z[0]), shown.z]), shown.start - lead * shown.dt, shown.dt,
                     shown.lowest)  # fmt: skip
    made = frames(shown, length, hop, pad=int(np.clip(math.ceil(200 * bins), 4, 200)))
    v = made.frequencies * event.to_velocity
    rows = (v >= low) & (v <= top)
    power = 10 * np.log10(np.maximum(made.power[:, rows].T, 1e-300))
    step = max(1, power.shape[0] // 260)
    power = power[: power.shape[0] // step * step].reshape(-1, step, power.shape[1]).max(axis=1)
    high = float(np.percentile(power, 99.9))
    floor = max(10 * math.log10(event.noise) - 2, high - (18 if slow else 55))
    frame = Frame(_UPPER, span, (low, top))
    canvas.image(frame, (power - floor) / max(high - floor, 1e-9), made.times[0] * 1e9, made.times[-1] * 1e9)
    inside = (event.t * 1e9 > left) & (event.t * 1e9 < right)
    ridge = event.velocity.copy()
    ridge[event.tracked.amplitude < 0.1 * float(np.median(event.tracked.amplitude[inside]))] = np.nan
    line = frame.pixels(event.t[inside] * 1e9, ridge[inside])
    canvas.line(line, "white", 2.2, alpha=0.85, within=frame)
    canvas.line(line, RED, 1.1, within=frame)
    _scales(canvas, frame, below=False)
    title = "Spectrogram, carrier removed, with the ridge" if slow else "Spectrogram, carrier at 0 m/s, with the ridge"
    x, y, width, height = _UPPER
    canvas.add(x + 0.006, y + 0.955 * height, title, 9, "white", anchor="la", halo="#00224e")
    _colour_bar(canvas, Frame((x + 1.008 * width, y, 0.012 * width, height), (0, 1), (floor, high)))


def _colour_bar(canvas: Canvas, bar: Frame) -> None:
    """The scale of the spectrogram's colours, in dB."""
    canvas.image(bar, np.linspace(0, 1, SCALE.shape[0])[:, None], 0, 1)
    left, bottom, width, height = bar.place
    canvas.add(left + 0.5 * width, bottom + height + 0.006, "dB", 7, anchor="ms")
    places = ticks(*bar.y, 6)
    for at, text in zip(places, labels_of(places), strict=True):
        canvas.add(left + width + 0.003, bar.up(at), text, 7, anchor="lm")


def _velocity(canvas: Canvas, event: Event, result: ShotResult, limits: tuple[float, float]) -> None:
    left, right = limits
    inside = (event.t * 1e9 > left) & (event.t * 1e9 < right) & (event.t < event.end)
    t, v, s = event.t[inside] * 1e9, event.velocity[inside], event.sigma[inside]
    high = float(np.percentile(v, 99.9)) if v.size else 1.0
    low = min(float(np.percentile(v, 1)) if v.size else 0.0, 0.0)
    span = max(high - low, 1.0)
    frame = Frame(_LOWER, limits, (low - 0.08 * span, high + 0.22 * span))
    _scales(canvas, frame, below=True)
    if v.size:
        for width, alpha in ((2, 0.35), (1, 0.8)):
            band = np.concatenate([frame.pixels(t, v - width * s), frame.pixels(t, v + width * s)[::-1]])
            canvas.area(band, SKY, alpha=alpha, within=frame)
        canvas.line(frame.pixels(t, v), INK, 1.0, within=frame)
    start, hel, impact = (_value(result, name) for name in ("start_time", "hel_velocity", "impact_velocity"))
    if start is not None and left <= start * 1e9 <= right:
        at = start * 1e9
        canvas.line(frame.pixels([at, at], frame.y), ORANGE, 1.3, within=frame, dashes=(4.8, 2.1))
        canvas.add(frame.across(at) - 0.005, frame.up(low + 0.55 * span), f"start {at:.2f} ns", 9, "#9a6b00",
                   upright=True)  # fmt: skip
    for label, level, colour, dark, below in (
        ("HEL", hel, PINK, "#8f3f6c", False), ("impact", impact, BLUE, BLUE, True),
    ):  # fmt: skip
        if level is not None:
            canvas.line(frame.pixels(frame.x, [level, level]), colour, 1.2, within=frame, dashes=(1.2, 2.0))
            y = frame.up(level) + (-0.008 if below else 0.008)
            canvas.add(0.66, y, f"{label} {level:.1f}", 9.5, dark, anchor="ra" if below else "rs", halo="#ffffff")
    for label, (key, when, corners, colour) in _MARKS.items():
        if key not in result.quantities or when not in result.quantities:
            continue
        x, y = result.quantities[when].value * 1e9, result.quantities[key].value
        if not left <= x <= right:
            continue
        canvas.mark(frame, x, y, corners, colour)
        # A label stands away from the curve, and one centred on an early peak would stand on the line of the start.
        early = start is not None and 0 <= x - start * 1e9 < 0.08 * (right - left)
        anchor = ("l" if early else "m") + ("a" if label == "pull-back" else "s")
        place = frame.up(y) + (-0.019 if label == "pull-back" else 0.019)
        canvas.add(frame.across(x) - (0.004 if early else 0), place, f"{label} {y:.1f}", 9.5, colour, anchor,
                   halo="#ffffff")  # fmt: skip
    kernel = 2 * math.sqrt(2 * math.log(2)) * event.kernel * 1e9
    text = f"bands 1σ and 2σ to scale; kernel {kernel:.2f} ns FWHM"
    canvas.add(_LOWER[0] + 0.995 * _LOWER[2], _LOWER[1] + 0.008, text, 8, GREY, anchor="rs")


def _table(canvas: Canvas, result: ShotResult) -> None:
    x, right, y, step = 0.715, 0.985, 0.885, 0.0348
    canvas.panel(x - 0.012, 0.145, right - x + 0.02, 0.757, PALE)
    rows = [(LABELS[key], rounded_text(result.quantities[key])) for key in LABELS if key in result.quantities]
    if result.snr_db is not None:
        rows.append(("Signal to noise", f"{result.snr_db:.1f} dB"))
    main = {"Peak velocity", "Spall strength", "Impact velocity"}
    for label, text in rows:
        canvas.add(x, y, label, 9.5, anchor="la", bold=label in main)
        canvas.add(right, y, text, 9.5, anchor="ra", bold=label in main)
        y -= step
    p = result.provenance
    instrument, material = p.get("instrument", {}), p.get("material", {})
    lines = []
    if instrument:
        scope = (
            " ".join(filter(None, (instrument.get("scope", ""), instrument.get("channel", "")))) or instrument["format"]
        )
        lines.append(f"{scope}, {instrument['sample_rate_hz'] / 1e9:g} GS/s, {instrument['points']} points")
        if instrument.get("trigger_time"):
            lines.append(f"trigger {instrument['trigger_time'][:23].replace('T', ' ')}")
    if material:
        lines.append(
            f"{material['name']}: {material['density']:g} kg/m³, C0 {material['c0']:g}, CL {material['cl']:g} m/s"
        )
        lines.append(f"{p['wavelength_nm']:g} nm, {p['angle_deg']:g}°, {p.get('software', '')}")
    y = 0.155 + 0.026 * len(lines)
    for line in lines:
        canvas.add(x, y, line if len(line) < 52 else line[:51] + "…", 7.8, GREY, anchor="la")
        y -= 0.026


_GRAVE = {"methods_disagree", "fit_failed", "internal_error", "uncertain_peak", "low_snr", "event_cut_off", "no_sheet",
          "no values"}  # fmt: skip


def _strip(canvas: Canvas, result: ShotResult) -> None:
    """Flags as plain words: grave ones in vermilion, others in orange, none in green."""
    flags = result.flags or (["no values"] if result.shot_class in ("no_shot", "unreadable") else [])
    x, y = 0.065, 0.052
    canvas.add(x, y + 0.026, "Quality", 9, GREY, anchor="lm")
    if not flags:
        flags = ["nothing to note"]
    for place, flag in enumerate(flags):
        colour = GREEN if flag == "nothing to note" else RED if flag in _GRAVE else ORANGE
        text = flag.replace("_", " ")
        width = 0.0082 * len(text) + 0.018
        if x + width > 0.97:
            canvas.add(x, y, f"+{len(flags) - place} more", 9, anchor="lm")
            break
        canvas.panel(x, y - 0.016, width - 0.008, 0.032, colour, 0.25)
        canvas.add(x + (width - 0.008) / 2, y, text, 9, anchor="mm")
        x += width
    if result.notes:
        text = "; ".join(result.notes)
        canvas.add(0.065, 0.014, text if len(text) < 165 else text[:164] + "…", 8, GREY)
