"""The sheet of one shot: spectrogram with ridge, velocity history with marks, table of results, strip of flags."""

from __future__ import annotations

import functools
import io
import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from openmsi_streams.pdv.event import Event
from openmsi_streams.pdv.result import Quantity, ShotResult
from openmsi_streams.pdv.spectral import Band, frames

DPI = 150
SIZE = (12.0, 6.75)
# Okabe and Ito's colours, told apart with any colour vision.
BLUE, ORANGE, GREEN, RED, SKY, PINK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
INK, PALE = "#222222", "#e8edf3"

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
# A mark's label stands beside its point, away from the curve: (dx, dy) in points, alignment.
_MARKS = {
    "peak": ("peak_velocity", "peak_time", "s", RED),
    "pull-back": ("pullback_minimum_velocity", "pullback_minimum_time", "o", BLUE),
    "recompression": ("recompression_velocity", "recompression_time", "D", GREEN),
}


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class _Words:
    """Text that is written on the finished drawing: a tenth of the time that matplotlib takes for it.

    Places are fractions of the sheet from its lower left corner, sizes are points, as in matplotlib.
    """

    def __init__(self) -> None:
        self._items: list[tuple[float, float, str, dict[str, Any]]] = []
        self.bar: tuple[tuple[float, float, float, float], Any, float, float] | None = None

    def add(
        self, x: float, y: float, text: str, size: float, colour: str = INK, anchor: str = "ls", bold: bool = False,
        halo: str = "",
    ) -> None:  # fmt: skip
        """One line; ``anchor`` as in Pillow: l, m, r and a(scender), m, s (baseline)."""
        options: dict[str, Any] = {"fill": colour, "anchor": anchor, "font": _font(bold, size * DPI / 72)}
        if halo:
            options |= {"stroke_width": 3, "stroke_fill": halo}
        self._items.append((x, y, text, options))

    def write(self, image: Image.Image) -> None:
        """Write all of it."""
        if self.bar is not None:
            self._write_bar(image, *self.bar)
        draw = ImageDraw.Draw(image)
        for x, y, text, options in self._items:
            draw.text((x * image.width, (1 - y) * image.height), text, **options)

    def _write_bar(
        self, image: Image.Image, place: tuple[float, float, float, float], colours: Any, low: float, high: float
    ) -> None:
        """A colour scale in dB at (left, bottom, width, height)."""
        x, y, width, height = place
        size = (round(width * image.width), round(height * image.height))
        strip = (255 * np.asarray(colours(np.linspace(1.0, 0.0, size[1])))[:, None, :3]).astype(np.uint8)
        strip = np.repeat(strip, size[0], axis=1)
        image.paste(Image.fromarray(strip), (round(x * image.width), round((1 - y - height) * image.height)))
        self.add(x + 0.5 * width, y + height + 0.006, "dB", 7, anchor="ms")
        step = 10 if high - low > 20 else 5
        for value in range(math.ceil(low / step) * step, math.floor(high) + 1, step):
            at = y + height * (value - low) / (high - low)
            self.add(x + width + 0.003, at, f"{value}".replace("-", "−"), 7, anchor="lm")


@functools.lru_cache(maxsize=32)
def _font(bold: bool, size: float) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


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
_STYLE = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.linewidth": 0.8, "text.usetex": False, "axes.titley": 1.0,
}  # fmt: skip


def draw_sheet(result: ShotResult, path: Path) -> None:
    """Write the sheet as PNG. The same result gives the same bytes."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white")
        words = _Words()
        _title(words, result)
        if isinstance(result.picture, Event):
            event = result.picture
            span = _span(event, result)
            _spectrogram(figure.add_axes(_UPPER), words, event, span)
            _velocity(figure.add_axes(_LOWER), words, event, result, span)
        else:
            for k, line in enumerate(textwrap.wrap(result.reason, 60)):
                words.add(0.365, 0.57 - 0.04 * k, line, 14, anchor="mm")
        _table(figure, words, result)
        _strip(figure, words, result)
        _save(figure, words, path)


def _scales(
    axes: Any, words: _Words, place: tuple[float, float, float, float], x: tuple[float, float], y: tuple[float, float],
    *, below: bool, grid: bool,
) -> None:  # fmt: skip
    """Limits, ticks and labels of a diagram. matplotlib's own ticks would take half of the time of a sheet."""
    left, bottom, width, height = place
    axes.set_xlim(*x)
    axes.set_ylim(*y)
    axes.xaxis.set_visible(False)
    axes.yaxis.set_visible(False)
    across = [at for at in MaxNLocator(9, steps=[1, 2, 5, 10]).tick_values(*x) if x[0] <= at <= x[1]]
    up = [at for at in MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(*y) if y[0] <= at <= y[1]]
    # Ticks are as long as four thousandths of the sheet; a gap (nan) parts one line from the next.
    dx, dy = 0.004 * (x[1] - x[0]) / width, 0.006 * (y[1] - y[0]) / height
    for lines, colour, thick in (
        ([((at, at), y) for at in across] + [(x, (at, at)) for at in up] if grid else [], "#dddddd", 0.5),
        ([((at, at), (y[0] - dy, y[0])) for at in across] + [((x[0] - dx, x[0]), (at, at)) for at in up], "black", 0.8),
    ):
        if lines:
            xs = np.array([(*line[0], np.nan) for line in lines]).ravel()
            ys = np.array([(*line[1], np.nan) for line in lines]).ravel()
            axes.plot(xs, ys, color=colour, lw=thick, clip_on=False, zorder=0.5 if colour != "black" else 3)
    digits = 0 if len(up) < 2 or float(up[1] - up[0]).is_integer() else 1
    for at in up:
        words.add(left - 0.008, bottom + height * (at - y[0]) / (y[1] - y[0]), _plain(at, digits), 10, anchor="rm")
    words.add(0.008, bottom + height + 0.012, "Velocity (m/s)" if below else "m/s", 10, anchor="ls")
    if below:
        digits = 0 if len(across) < 2 or float(across[1] - across[0]).is_integer() else 1
        for at in across:
            words.add(left + width * (at - x[0]) / (x[1] - x[0]), bottom - 0.014, _plain(at, digits), 10, anchor="ma")
        words.add(left + 0.5 * width, bottom - 0.046, "Time on the record's axis (ns)", 10, anchor="ma")


def _plain(value: float, digits: int) -> str:
    return f"{value + 0.0:.{digits}f}".replace("-", "−")


def _save(figure: Figure, words: _Words, path: Path) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())
    words.write(image)
    # A palette of 192 colours keeps a sheet well below 400 kB, and no colour of ours needs more.
    small = image.quantize(colors=192, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    out = io.BytesIO()
    small.save(out, format="PNG", compress_level=4, dpi=(DPI, DPI))
    path.write_bytes(out.getvalue())


def _title(words: _Words, result: ShotResult) -> None:
    name = result.name if len(result.name) <= 70 else result.name[:67] + "…"
    words.add(0.065, 0.952, TITLES.get(result.shot_class, result.shot_class), 17, bold=True)
    words.add(0.665, 0.952, name, 11.5, anchor="rs")
    if isinstance(result.picture, Event):
        reason = result.reason if len(result.reason) <= 110 else result.reason[:107] + "…"
        words.add(0.065, 0.917, reason, 10, "#555555")


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


def _spectrogram(axes: Any, words: _Words, event: Event, span: tuple[float, float]) -> None:
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
    axes.imshow(
        power, origin="lower", aspect="auto", cmap="cividis", vmin=floor, vmax=high, interpolation="nearest",
        extent=(made.times[0] * 1e9, made.times[-1] * 1e9, float(v[rows][0]), float(v[rows][-1])),
    )  # fmt: skip
    inside = (event.t * 1e9 > left) & (event.t * 1e9 < right)
    ridge = event.velocity.copy()
    ridge[event.tracked.amplitude < 0.1 * float(np.median(event.tracked.amplitude[inside]))] = np.nan
    axes.plot(event.t[inside] * 1e9, ridge[inside], color="white", lw=2.2, alpha=0.85)
    axes.plot(event.t[inside] * 1e9, ridge[inside], color=RED, lw=1.1)
    _scales(axes, words, _UPPER, (left, right), (low, top), below=False, grid=False)
    title = "Spectrogram, carrier removed, with the ridge" if slow else "Spectrogram, carrier at 0 m/s, with the ridge"
    x, y, width, height = _UPPER
    words.add(x + 0.006, y + 0.955 * height, title, 9, "white", anchor="la", halo="#00224e")
    words.bar = ((x + 1.008 * width, y, 0.012 * width, height), mpl.colormaps["cividis"], floor, high)


def _velocity(axes: Any, words: _Words, event: Event, result: ShotResult, limits: tuple[float, float]) -> None:
    left, right = limits
    inside = (event.t * 1e9 > left) & (event.t * 1e9 < right) & (event.t < event.end)
    t, v, s = event.t[inside] * 1e9, event.velocity[inside], event.sigma[inside]
    axes.fill_between(t, v - 2 * s, v + 2 * s, color=SKY, alpha=0.35, lw=0, label="2σ")
    axes.fill_between(t, v - s, v + s, color=SKY, alpha=0.8, lw=0, label="1σ")
    axes.plot(t, v, color=INK, lw=1.0)
    high = float(np.percentile(v, 99.9)) if v.size else 1.0
    low = min(float(np.percentile(v, 1)) if v.size else 0.0, 0.0)
    span = max(high - low, 1.0)
    _scales(axes, words, _LOWER, (left, right), (low - 0.08 * span, high + 0.22 * span), below=True, grid=True)
    offsets = {"peak": (0, 9, "center", "bottom"), "pull-back": (0, -9, "center", "top"),
               "recompression": (0, 9, "center", "bottom")}  # fmt: skip
    start = _value(result, "start_time")
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
    for label, (key, when, marker, colour) in _MARKS.items():
        if key not in result.quantities or when not in result.quantities:
            continue
        x, y = result.quantities[when].value * 1e9, result.quantities[key].value
        if not left <= x <= right:
            continue
        axes.plot([x], [y], marker, ms=7, mfc="none", mec=colour, mew=1.8)
        dx, dy, ha, va = offsets[label]
        if start is not None and 0 <= x - start * 1e9 < 0.08 * (right - left):
            # A label centred on an early peak would stand on the line of the start.
            dx, ha = -4, "left"
        axes.annotate(f"{label} {y:.1f}", (x, y), (dx, dy), textcoords="offset points", ha=ha, va=va, color=colour,
                      fontsize=9.5, bbox=box)  # fmt: skip
    if start is not None and left <= start * 1e9 <= right:
        axes.axvline(start * 1e9, color=ORANGE, lw=1.3, ls="--")
        axes.annotate(f"start {start * 1e9:.2f} ns", (start * 1e9, low + 0.82 * span), (-4, 0), rotation=90,
                      textcoords="offset points", ha="right", va="center", color="#9a6b00", fontsize=9)  # fmt: skip
    hel = _value(result, "hel_velocity")
    if hel is not None:
        axes.axhline(hel, color=PINK, lw=1.2, ls=":")
        axes.annotate(f"HEL {hel:.1f}", (right, hel), (-4, 4), textcoords="offset points", ha="right", va="bottom",
                      color="#8f3f6c", fontsize=9.5, bbox=box)  # fmt: skip
    impact = _value(result, "impact_velocity")
    if impact is not None:
        axes.axhline(impact, color=BLUE, lw=1.2, ls=":")
        axes.annotate(f"impact {impact:.1f}", (right, impact), (-4, -4), textcoords="offset points", ha="right",
                      va="top", color=BLUE, fontsize=9.5, bbox=box)  # fmt: skip
    kernel = 2 * math.sqrt(2 * math.log(2)) * event.kernel * 1e9
    text = f"bands 1σ and 2σ to scale; kernel {kernel:.2f} ns FWHM"
    words.add(_LOWER[0] + 0.995 * _LOWER[2], _LOWER[1] + 0.008, text, 8, "#555555", anchor="rs")


def _panel(figure: Figure, corner: tuple[float, float], width: float, height: float, colour: str, alpha: float) -> None:
    box = FancyBboxPatch(
        corner, width, height, boxstyle="round,pad=0,rounding_size=0.006", transform=figure.transFigure, fc=colour,
        ec="none", alpha=alpha,
    )  # fmt: skip
    figure.add_artist(box)


def _table(figure: Figure, words: _Words, result: ShotResult) -> None:
    x, right, y, step = 0.715, 0.985, 0.885, 0.0348
    _panel(figure, (x - 0.012, 0.145), right - x + 0.02, 0.757, PALE, 1.0)
    rows = [(LABELS[key], rounded_text(result.quantities[key])) for key in LABELS if key in result.quantities]
    if result.snr_db is not None:
        rows.append(("Signal to noise", f"{result.snr_db:.1f} dB"))
    main = {"Peak velocity", "Spall strength", "Impact velocity"}
    for label, text in rows:
        words.add(x, y, label, 9.5, anchor="la", bold=label in main)
        words.add(right, y, text, 9.5, anchor="ra", bold=label in main)
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
        words.add(x, y, line if len(line) < 52 else line[:51] + "…", 7.8, "#555555", anchor="la")
        y -= 0.026


_GRAVE = {"methods_disagree", "fit_failed", "internal_error", "uncertain_peak", "low_snr", "event_cut_off", "no_sheet",
          "no values"}  # fmt: skip


def _strip(figure: Figure, words: _Words, result: ShotResult) -> None:
    """Flags as plain words: grave ones in vermilion, others in orange, none in green."""
    flags = result.flags or (["no values"] if result.shot_class in ("no_shot", "unreadable") else [])
    x, y = 0.065, 0.052
    words.add(x, y + 0.026, "Quality", 9, "#555555", anchor="lm")
    if not flags:
        flags = ["nothing to note"]
    for place, flag in enumerate(flags):
        colour = GREEN if flag == "nothing to note" else RED if flag in _GRAVE else ORANGE
        text = flag.replace("_", " ")
        width = 0.0082 * len(text) + 0.018
        if x + width > 0.97:
            words.add(x, y, f"+{len(flags) - place} more", 9, anchor="lm")
            break
        _panel(figure, (x, y - 0.016), width - 0.008, 0.032, colour, 0.25)
        words.add(x + (width - 0.008) / 2, y, text, 9, anchor="mm")
        x += width
    if result.notes:
        text = "; ".join(result.notes)
        words.add(0.065, 0.014, text if len(text) < 165 else text[:164] + "…", 8, "#555555")
