"""A small laboratory: three instruments that write files into a folder as real ones do.

Oscilloscope: PDV shots with a carrier and the Doppler-shifted beat of a moving surface. Diffractometer: powder patterns
of aluminium and frames of an area detector. Camera: one long recording. Names and folders are as people make them.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha512
from pathlib import Path

from openmsi_streams.config.settings import MIB

CAMERA_BYTES = 200 * MIB
FRAME_BYTES = 8 * MIB
# Lattice parameter of aluminium and wavelength of copper K-alpha-1, in angstrom.
AL_LATTICE, CU_K_ALPHA = 4.0495, 1.54056
# Reflections of a face-centred cubic powder with their usual relative intensities (JCPDS 4-0787).
AL_LINES = {(1, 1, 1): 100.0, (2, 0, 0): 47.0, (2, 2, 0): 22.0, (3, 1, 1): 24.0, (2, 2, 2): 7.0}

Pieces = Callable[[], Iterator[bytes]]


@dataclass
class Specimen:
    """One file that an instrument is going to write."""

    path: str
    pieces: Pieces
    pause: float
    """Seconds between pieces: instruments write while they measure."""


@dataclass
class Written:
    """A file that an instrument has finished."""

    path: str
    bytes: int
    sha512: str
    time: float
    """When it was closed, seconds since the epoch."""


@dataclass
class Instrument:
    """What one instrument writes, one file after the other."""

    name: str
    files: list[Specimen] = field(default_factory=list)
    pause: float = 0.3
    """Seconds between files."""


def diffraction(seed: int, shift: float = 0.0) -> bytes:
    """Return a powder pattern of aluminium as CSV: two-theta in degrees, counts.

    Bragg: sin(theta) = lambda sqrt(h^2 + k^2 + l^2) / (2 a); each line a Lorentzian on a falling background, with
    the counting noise of a detector. ``shift`` is a lattice strain.
    """
    rng = random.Random(seed)
    lines = []
    for (h, k, miller), intensity in AL_LINES.items():
        sine = CU_K_ALPHA * math.sqrt(h * h + k * k + miller * miller) / (2 * AL_LATTICE * (1 + shift))
        lines.append((2 * math.degrees(math.asin(sine)), 40.0 * intensity))
    rows = ["two_theta_deg,counts"]
    for step in range(3501):
        angle = 20.0 + 0.02 * step
        mean = 60.0 * math.exp(-angle / 60.0) + 12.0
        for centre, height in lines:
            mean += height / (1 + ((angle - centre) / 0.08) ** 2)
        rows.append(f"{angle:.2f},{max(0, round(rng.gauss(mean, math.sqrt(mean))))}")
    return ("\n".join(rows) + "\n").encode()


def noise(size: int, seed: int, piece: int = 8 * MIB) -> Pieces:
    """Return the content of an uncompressed recording: as incompressible as a camera's noise."""

    def pieces() -> Iterator[bytes]:
        rng = random.Random(seed)
        block = rng.randbytes(min(piece, size))
        for number, start in enumerate(range(0, size, piece)):
            # Random bytes are slow to make; a counter in front makes each piece another one.
            yield (number.to_bytes(8, "big") + block)[: min(piece, size - start)]

    return pieces


def whole(data: bytes, piece: int = 256 * 1024) -> Pieces:
    """Return the content of a file that is in memory."""

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(data), piece):
            yield data[start : start + piece]

    return pieces


def shots(folder: Path) -> list[Specimen]:
    """Return the oscilloscope's files, made below ``folder``, which must be outside the watched one."""
    from openmsi_streams.pdv.synthetic import write_lecroy_text, write_trc

    kinds = ("HEL foot", "sharp, noise 5 %", "flyer", "no spall, plateau", "AZ31B, 14 bits", "drop-out")
    made: list[Specimen] = []
    for number, case in enumerate(kinds, start=1):
        binary = number % 3 != 0
        name = f"F2--20260630--{number:05d}.{'trc' if binary else 'txt'}"
        (write_trc if binary else write_lecroy_text)(folder / name, case=case, seed=number)
        made.append(Specimen(f"oscilloscope/2026-06-30/{name}", whole((folder / name).read_bytes()), 0.005))
    return made


def laboratory(folder: Path, camera_bytes: int = CAMERA_BYTES) -> list[Instrument]:
    """Return the three instruments; ``folder`` is for what has to be prepared."""
    settings = {"frames_per_second": 200_000, "exposure_ns": 500, "pixels": [400, 250], "lens": "105 mm f/2.8"}
    return [
        Instrument("oscilloscope", shots(folder), 0.4),
        Instrument(
            "xrd",
            [
                Specimen("xrd/Al as received.csv", whole(diffraction(1), 8192), 0.02),
                Specimen("xrd/échantillon 2/2θ scan 20–90°.csv", whole(diffraction(2, 0.002), 8192), 0.02),
                Specimen("xrd/échantillon 2/area detector/frame 0001.raw", noise(FRAME_BYTES, 21, MIB), 0.02),
                Specimen("xrd/échantillon 2/area detector/frame 0002.raw", noise(FRAME_BYTES, 22, MIB), 0.02),
                Specimen("xrd/échantillon 3 (annealed)/scan.csv", whole(diffraction(3, -0.001), 8192), 0.02),
            ],
        ),
        Instrument(
            "camera",
            [
                Specimen("camera/high speed/shot 00001.json", whole(json.dumps(settings, indent=1).encode()), 0.0),
                Specimen("camera/high speed/shot 00001.cine", noise(camera_bytes, 31), 0.1),
                # The empty file that many instruments write when a measurement is complete.
                Specimen("camera/high speed/shot 00001.done", whole(b""), 0.0),
            ],
        ),
    ]


def write(specimen: Specimen, root: Path, stop: threading.Event) -> Written | None:
    """Write one file piece by piece; None if stopped before the end."""
    target = root / specimen.path
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = sha512(), 0
    with target.open("wb") as file:
        for piece in specimen.pieces():
            file.write(piece)
            file.flush()
            digest.update(piece)
            size += len(piece)
            if stop.wait(specimen.pause):
                return None
    return Written(specimen.path, size, digest.hexdigest(), time.time())


def run(
    instruments: list[Instrument], root: Path, stop: threading.Event
) -> tuple[list[threading.Thread], list[Written]]:
    """Start every instrument in a thread; the list fills as files are finished, until all threads have ended."""
    written: list[Written] = []

    def work(instrument: Instrument) -> None:
        for specimen in instrument.files:
            done = write(specimen, root, stop)
            if done is None:
                return
            written.append(done)
            if stop.wait(instrument.pause):
                return

    threads = [
        threading.Thread(target=work, args=(instrument,), name=instrument.name, daemon=True)
        for instrument in instruments
    ]
    for thread in threads:
        thread.start()
    return threads, written
