"""Files to send."""

from __future__ import annotations

import random
from hashlib import sha512
from pathlib import Path

# Names as instruments and people make them.
_FOLDERS = ("", "shots", "run 07/raw", "échantillon/α", "a/b/c/d")
_NAMES = ("scan", "F2--20210529--", "échantillon ", "frame.", "IMG_", "tag#1 & 2 (copy) ", "π-")
_SUFFIXES = (".dat", ".csv", ".tiff", ".trc", "")


def sha512_of(path: Path) -> str:
    """Return a file's SHA-512 in hex, read in pieces."""
    digest = sha512()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def make_files(folder: Path, count: int, largest: int, total: int, seed: int) -> dict[str, str]:
    """Write ``count`` files below ``folder``: an empty one, one of ``largest`` bytes, all with ``total`` bytes.

    Sizes, names, folders and content follow from ``seed``. Returns ``{relative path: sha512 in hex}``.
    """
    rng = random.Random(seed)
    sizes = [0, largest][:count]
    others = count - len(sizes)
    if others:
        weights = [rng.random() ** 3 + 0.01 for _ in range(others)]
        left = max(0, total - largest)
        sizes += [min(largest, int(left * weight / sum(weights))) for weight in weights]
    made: dict[str, str] = {}
    for number, size in enumerate(sizes):
        subdir = rng.choice(_FOLDERS)
        name = f"{rng.choice(_NAMES)}{number:03d}{rng.choice(_SUFFIXES)}"
        path = folder / subdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = sha512()
        with path.open("wb") as file:
            for start in range(0, size, 1 << 20):
                piece = rng.randbytes(min(1 << 20, size - start))
                digest.update(piece)
                file.write(piece)
        made[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return made


def tree(folder: Path, ignore: tuple[str, ...] = (".partial", ".versions", ".derived")) -> dict[str, str]:
    """Return ``{relative path: sha512 in hex}`` of all files below a folder, without the store's own folders."""
    return {
        path.relative_to(folder).as_posix(): sha512_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in ignore
    }
