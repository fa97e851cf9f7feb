"""An example that does real work: powder X-ray diffraction scans in CSV form give a plot and a table of peaks.

Load it with ``processors.load = ["openmsi_streams.processors.xrd:xrd"]``.

The file has two columns, 2 theta in degrees and counts, with any header lines; a header like ``wavelength = 1.5406``
(in angstrom) is used. The background is the lower envelope of the scan: clipped where a point lies above the mean of
its neighbours at growing distance (Ryan et al., Nucl. Instrum. Meth. B 34 (1988) 396, the "SNIP" filter). Peaks stand
out of the noise by five of its standard deviations. Lattice spacings follow from Bragg's law, d = lambda / (2 sin
theta).
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openmsi_streams.processors.api import DeliveredFile, RejectFile, Result, processor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Cu K alpha 1, in angstrom (Hoelzer et al., Phys. Rev. A 56 (1997) 4554): what most laboratory instruments have.
CU_KALPHA1 = 1.540593
# A scan with fewer points is none; one with more is some other table.
MIN_POINTS, MAX_POINTS = 20, 2_000_000
# A wrong peak costs a person's time: at five standard deviations noise makes one in some million points.
SIGMAS = 5.0
# Peaks below one percent of the highest are of no use for telling phases.
SMALLEST = 0.01
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$")
_WAVELENGTH = re.compile(r"(?:wave\s*length|lambda|alpha1)\D*?([0-9]\.[0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Scan:
    """A diffraction scan."""

    angle: Floats
    """2 theta, degrees, rising."""
    counts: Floats
    wavelength: float
    """Angstrom."""
    assumed: bool
    """Whether the wavelength is the default, not the file's."""


@processor(match=("*xrd*.csv", "*xrd*.xy", "*xrd*/*.csv", "*xrd*/*.xy"), version="1")
def xrd(file: DeliveredFile) -> Result:
    """Plot a scan and list its peaks."""
    with file.open() as stream:
        scan = read(stream.read().decode("utf-8", errors="replace"))
    found, background = peaks(scan)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    columns = ["two_theta_deg", "d_angstrom", "height_counts", "fwhm_deg", "relative_percent"]
    writer.writerow(columns)
    writer.writerows([f"{one[name]:.6g}" for name in columns] for one in found)
    summary = {
        "points": len(scan.angle),
        "two_theta_deg": [float(scan.angle[0]), float(scan.angle[-1])],
        "wavelength_angstrom": scan.wavelength,
        "wavelength_assumed": scan.assumed,
        "peaks": [{name: float(f"{one[name]:.6g}") for name in columns} for one in found],
    }
    plot(scan, background, found, file)
    file.beside("peaks.csv").write_text(table.getvalue(), encoding="utf-8")
    strongest = max(found, key=lambda one: one["height_counts"], default=None)
    return Result(
        files=[file.beside("png"), file.beside("peaks.csv")],
        json=summary,
        record={"peaks": len(found), "strongest_two_theta_deg": strongest and float(strongest["two_theta_deg"])},
    )


def read(text: str) -> Scan:
    """Return the scan in a file's text; separators may be commas, semicolons, tabs or blanks.

    Raises:
        RejectFile: there are not two columns of numbers with a rising angle.
    """
    import numpy as np

    rows: list[tuple[float, float]] = []
    wavelength = 0.0
    for line in text.splitlines():
        parts = [part.strip().strip('"') for part in re.split(r"[;,\t ]+", line.strip()) if part.strip()]
        if len(parts) >= 2 and _NUMBER.match(parts[0]) and _NUMBER.match(parts[1]):
            rows.append((float(parts[0]), float(parts[1])))
            if len(rows) > MAX_POINTS:
                raise RejectFile(f"It has more than {MAX_POINTS} rows, which no diffraction scan has.")
        elif not rows and (told := _WAVELENGTH.search(line)):
            wavelength = float(told.group(1))
    if len(rows) < MIN_POINTS:
        raise RejectFile(f"It has {len(rows)} rows of two numbers; a diffraction scan has at least {MIN_POINTS}.")
    data = np.array(sorted(dict(rows).items()), dtype=float)
    if not (np.isfinite(data).all() and data[0, 0] >= 0 and data[-1, 0] <= 180):
        raise RejectFile("Its first column is not an angle between 0 and 180 degrees.")
    # Silver to cobalt: outside, the number in the header was something else.
    usable = 0.3 < wavelength < 3.0
    return Scan(data[:, 0], data[:, 1], wavelength if usable else CU_KALPHA1, not usable)


def peaks(scan: Scan) -> tuple[list[dict[str, float]], Floats]:
    """Return the peaks by rising angle and the background; heights are in counts above it."""
    import numpy as np
    from scipy.signal import find_peaks, peak_widths, savgol_coeffs, savgol_filter

    step = float(np.median(np.diff(scan.angle)))
    # Below the width of a laboratory peak (0.1 degree), so that it takes noise and leaves the peaks.
    window = min(2 * max(1, round(0.04 / step)) + 3, (len(scan.counts) - 1) // 2 * 2 - 1)
    smooth: Floats = savgol_filter(scan.counts, window, 2)
    # Three quarters of a degree is wider than any such peak and narrower than an amorphous hump.
    background = lower_envelope(smooth, max(3, round(0.75 / step)))
    # A lower envelope lies under the noise's middle; most points of a scan are background, so their median says by how
    # much.
    background = background + float(np.median(smooth - background))
    net = smooth - background
    # Second differences see noise and not the curve; sqrt(6) is their gain, 1.4826 makes a median a standard deviation.
    noise = 1.4826 * float(np.median(np.abs(np.diff(scan.counts, 2)))) / 6**0.5
    noise *= float(np.sqrt(np.sum(savgol_coeffs(window, 2) ** 2)))
    smallest = max(SIGMAS * noise, SMALLEST * float(net.max()), 1e-12)
    places, _ = find_peaks(net, height=smallest, prominence=smallest, distance=max(1, round(0.1 / step)))
    widths = peak_widths(net, places, rel_height=0.5)[0] * step
    highest = float(net[places].max()) if len(places) else 1.0
    found = []
    for place, width in zip(places, widths, strict=True):
        angle, height = _summit(scan.angle, net, int(place))
        spacing = scan.wavelength / (2 * np.sin(np.radians(angle / 2))) if angle > 0 else float("inf")
        found.append(
            {
                "two_theta_deg": angle,
                "d_angstrom": float(spacing),
                "height_counts": height,
                "fwhm_deg": float(width),
                "relative_percent": 100 * float(net[place]) / highest,
            }
        )
    return found, background


def lower_envelope(counts: Floats, reach: int) -> Floats:
    """Return the background under the peaks: the SNIP filter on a compressed scale, up to ``reach`` points."""
    import numpy as np

    # Twice the logarithm and a root make large and small peaks alike.
    low = np.log(np.log(np.sqrt(np.clip(counts, 0, None) + 1) + 1) + 1)
    for distance in range(reach, 0, -1):
        middle = (low[: -2 * distance] + low[2 * distance :]) / 2 if len(low) > 2 * distance else low[:0]
        inner = low[distance : len(low) - distance]
        low[distance : len(low) - distance] = np.minimum(inner, middle)
    result: Floats = (np.exp(np.exp(low) - 1) - 1) ** 2 - 1
    return result


def _summit(angle: Floats, net: Floats, place: int) -> tuple[float, float]:
    """Return angle and height of the parabola through the highest point and its neighbours."""
    if place in (0, len(net) - 1):
        return float(angle[place]), float(net[place])
    left, middle, right = (float(one) for one in net[place - 1 : place + 2])
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend else 0.0
    step = float(angle[place + 1] - angle[place - 1]) / 2
    return float(angle[place]) + shift * step, middle - 0.25 * (left - right) * shift


def plot(scan: Scan, background: Floats, found: list[dict[str, float]], file: DeliveredFile) -> None:
    """Write the plot beside the file; the same scan gives the same bytes."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    axes.plot(scan.angle, scan.counts, color="#1f4e79", linewidth=0.8, label="counts")
    axes.plot(scan.angle, background, color="#b0b0b0", linewidth=1.0, label="background")
    for one in sorted(found, key=lambda peak: -peak["height_counts"])[:12]:
        axes.annotate(
            f"{one['two_theta_deg']:.2f}°\n{one['d_angstrom']:.3f} Å",
            (
                one["two_theta_deg"],
                one["height_counts"] + float(np.interp(one["two_theta_deg"], scan.angle, background)),
            ),
            textcoords="offset points",
            xytext=(0, 6),
            ha="center",
            fontsize=7,
        )
    axes.margins(x=0.01, y=0.18)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("2θ (degrees)")
    axes.set_ylabel("counts")
    axes.set_title(f"{file.relative}   {len(found)} peaks, λ = {scan.wavelength:.6g} Å", fontsize=10)
    axes.legend(loc="upper right", fontsize=8, frameon=False)
    figure.savefig(file.beside("png"), format="png", metadata={"Software": None})
