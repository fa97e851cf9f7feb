"""`analyze`: from a file or its bytes to a result, whatever the file holds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openmsi_streams import __version__
from openmsi_streams.errors import OpenMSIStreamsError
from openmsi_streams.pdv.event import Event, NoEvent, locate
from openmsi_streams.pdv.flyer import displacement
from openmsi_streams.pdv.measure import measure
from openmsi_streams.pdv.readers import read_trace
from openmsi_streams.pdv.result import History, ShotResult
from openmsi_streams.pdv.settings import Constants, PdvSettings, constants, settings_from
from openmsi_streams.pdv.trace import FloatArray, Trace

# In a sequence, so many segments are searched for the one with the event.
MOST_SEGMENTS = 64
# A share of clipped samples above which the harmonics of clipping matter.
CLIPPED_SHARE = 1e-3


def analyze(
    source: Path | bytes, settings: PdvSettings | Mapping[str, Any] | None = None, name: str = ""
) -> ShotResult:
    """Analyse one shot. Never raises for what a file holds: what cannot be read is of class ``unreadable``.

    ``name`` is the file's name for the result (a path's own name by default).
    """
    name = name or (source.name if isinstance(source, Path) else "")
    result = ShotResult(name, "unreadable", "")
    try:
        chosen = settings_from(settings)
        known = constants(chosen)
        result.provenance["settings_hash"] = chosen.hash
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trace = read_trace(source, chosen.channel)
            return analyze_trace(trace, known, result)
    except OpenMSIStreamsError as error:
        result.reason = str(error)
    except MemoryError:
        result.reason = "the record needs more memory than there is. Save a shorter record."
    except OSError as error:
        result.reason = f"the file cannot be read: {error.strerror or error}"
    except Exception as error:  # whatever a file holds, a stream of shots must go on
        result.reason = f"the analysis met something it does not know ({type(error).__name__}: {error})"
        result.flags.append("internal_error")
    result.shot_class = "unreadable"
    result.quantities.clear()
    result.provenance.setdefault("software", f"openmsi_streams {__version__}")
    return result


def analyze_trace(trace: Trace, known: Constants, result: ShotResult | None = None) -> ShotResult:
    """Analyse a record that has been read; see `analyze`."""
    result = result or ShotResult("", "unreadable", "")
    result.flags += trace.flags
    result.notes += trace.notes
    result.provenance |= {
        "software": f"openmsi_streams {__version__}",
        "instrument": trace.describe(),
        "wavelength_nm": float(f"{known.wavelength * 1e9:.9g}"),
        "angle_deg": float(f"{math.degrees(known.angle):.6g}"),
        "material": {key: getattr(known.material, key) for key in ("name", "density", "c0", "cl", "s", "source")},
    }
    result.flags += known.flags
    reason = ""
    for segment in range(min(trace.segments, MOST_SEGMENTS)):
        volts = trace.volts[segment]
        try:
            event = locate(volts, float(trace.starts[segment]), trace.dt, known.to_velocity)
        except NoEvent as nothing:
            reason = reason or str(nothing)
            continue
        if trace.segments > 1:
            result.provenance["segment"] = segment
        measure(event, known, result)
        result.flags += event.flags
        _quality(event, volts, trace, result)
        result.history = _history(event)
        result.picture = event
        result.flags = list(dict.fromkeys(result.flags))
        return result
    result.shot_class, result.reason = "no_shot", reason
    if _clipped(trace.volts[0], trace) > CLIPPED_SHARE:
        result.flags.append("clipped")
    result.flags = list(dict.fromkeys(result.flags))
    return result


def _history(event: Event) -> History:
    inside = (event.t > event.onset - 30e-9) & (event.t < event.end)
    return History(
        event.t[inside], event.velocity[inside], event.sigma[inside], displacement(event)[inside],
        event.tracked.amplitude[inside], 2 * math.sqrt(2 * math.log(2)) * event.kernel,
    )  # fmt: skip


def _clipped(volts: FloatArray, trace: Trace) -> float:
    """Share of samples that lie in a run at the largest or the smallest value."""
    share = 0.0
    for limit in (float(volts.max()), float(volts.min())):
        at = volts == limit
        share += float(np.mean(at[1:] & at[:-1]))
    return share


def _quality(event: Event, volts: FloatArray, trace: Trace, result: ShotResult) -> None:
    """SNR and the flags that say how far to trust the values."""
    band = event.tracked.band
    inside = (event.t > event.onset + 2e-9) & (event.t < min(event.end, event.onset + 80e-9))
    amplitude = event.tracked.amplitude[inside]
    usual = float(np.median(amplitude)) if amplitude.size else 0.0
    # The noise of the band, spread over the whole range of frequencies, as a scope's user counts it.
    full = event.noise * band.dt / trace.dt / 4
    if usual > 0 and full > 0:
        result.snr_db = 10 * math.log10(usual**2 / 2 / full)
    if _clipped(volts, trace) > CLIPPED_SHARE:
        result.flags.append("clipped")
        result.notes.append("samples at the limit of the digitiser's range: lower the gain")
    low = amplitude < 0.2 * usual
    if amplitude.size and low.sum() * band.dt > 0.7e-9:
        result.flags.append("drop_out")
        result.notes.append(f"the light drops out for {low.sum() * band.dt * 1e9:.1f} ns within 80 ns of the start")
    if result.snr_db is not None and result.snr_db < 0:
        result.flags.append("low_snr")
        result.notes.append(f"signal to noise of {result.snr_db:.0f} dB")
    if abs(event.carrier.drift) > max(5 * event.carrier.sigma, 0.5e6):
        result.flags.append("carrier_drift")
        result.notes.append(f"the carrier drifts by {event.carrier.drift / 1e6:.2f} MHz before the event")
    follow = event.end - event.onset
    if follow < 40e-9 and result.shot_class in ("spall", "no_spall"):
        result.flags.append("event_cut_off")
        result.notes.append(f"the event can be followed for {follow * 1e9:.0f} ns only")
    peak = result.quantities.get("peak_velocity")
    if peak is not None and peak.sigma is not None and peak.sigma > 0.05 * abs(peak.value):
        result.flags.append("uncertain_peak")
