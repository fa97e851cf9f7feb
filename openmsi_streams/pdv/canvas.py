"""A drawing surface for sheets: lines and areas by matplotlib's Agg renderer, text by Pillow.

matplotlib's figures, axes and ticks are left out: reading them in and laying them out takes several times as long as
the analysis of a shot. Places are fractions of the sheet from its lower left corner, sizes are points.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence
from pathlib import Path as FilePath

import matplotlib as mpl
import msgspec
import numpy as np
import numpy.typing as npt
from matplotlib.backend_bases import GraphicsContextBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.path import Path
from matplotlib.transforms import Bbox, IdentityTransform
from PIL import Image, ImageDraw, ImageFont

from openmsi_streams.pdv.trace import FloatArray

DPI = 150
WIDTH, HEIGHT = 1800, 1012
INK = "#222222"
# The colours of cividis at tenths, dark blue to yellow: as bright to any colour vision.
_SCALE = ("#00224e", "#083370", "#35456c", "#4f576c", "#666970", "#7d7c78", "#948e77", "#aea371", "#c8b866", "#e5cf52",
          "#fee838")  # fmt: skip
_STOPS = np.array([[int(colour[k : k + 2], 16) for k in (1, 3, 5)] for colour in _SCALE], dtype=np.float64)
SCALE = np.stack(
    [np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(_SCALE)), _STOPS[:, k]) for k in range(3)], axis=1
).astype(np.uint8)
"""256 colours from weak to strong, shape (256, 3)."""


class Frame(msgspec.Struct, frozen=True):
    """A diagram: its place on the sheet (left, bottom, width, height) and the limits of its axes."""

    place: tuple[float, float, float, float]
    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, x: float) -> float:
        """Fraction of the sheet's width at which ``x`` lies."""
        return self.place[0] + self.place[2] * (x - self.x[0]) / (self.x[1] - self.x[0])

    def up(self, y: float) -> float:
        """Fraction of the sheet's height at which ``y`` lies."""
        return self.place[1] + self.place[3] * (y - self.y[0]) / (self.y[1] - self.y[0])

    @property
    def box(self) -> Bbox:
        """The diagram in pixels from the sheet's lower left corner."""
        left, bottom, width, height = self.place
        return Bbox.from_bounds(left * WIDTH, bottom * HEIGHT, width * WIDTH, height * HEIGHT)

    def pixels(self, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Points of the diagram in pixels, shape (n, 2)."""
        left, bottom, width, height = self.place
        at = (np.asarray(x, dtype=np.float64) - self.x[0]) / (self.x[1] - self.x[0])
        high = (np.asarray(y, dtype=np.float64) - self.y[0]) / (self.y[1] - self.y[0])
        return np.stack([(left + width * at) * WIDTH, (bottom + height * high) * HEIGHT], axis=-1)


class Text(msgspec.Struct):
    """One line of text; ``anchor`` as in Pillow: l, m, r and a(scender), m, s (baseline)."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    anchor: str
    bold: bool
    halo: str
    upright: bool

    @property
    def font(self) -> ImageFont.FreeTypeFont:
        """The font of this text."""
        return _font(self.bold, self.size * DPI / 72)


@functools.lru_cache(maxsize=32)
def _font(bold: bool, size: float) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = FilePath(mpl.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


class Canvas:
    """One sheet in the making. What is drawn first lies below; all text lies on top."""

    def __init__(self) -> None:
        self._renderer = RendererAgg(WIDTH, HEIGHT, DPI)
        self.texts: list[Text] = []
        self.area([(0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT)], "white")

    def _context(self, colour: str, points: float, alpha: float, within: Frame | None) -> GraphicsContextBase:
        context: GraphicsContextBase = self._renderer.new_gc()
        context.set_foreground(colour)
        context.set_linewidth(points)
        context.set_alpha(alpha)
        if within is not None:
            context.set_clip_rectangle(within.box)
        return context

    def line(
        self, points: FloatArray, colour: str, width: float, *, alpha: float = 1.0, within: Frame | None = None,
        dashes: Sequence[float] = (), snap: bool = False,
    ) -> None:  # fmt: skip
        """A line through ``points`` (pixels, shape (n, 2)); NaN parts it. ``dashes`` are in points, on and off."""
        context = self._context(colour, width, alpha, within)
        if dashes:
            context.set_dashes(0, list(dashes))
        if snap:
            context.set_snap(True)
        self._renderer.draw_path(context, Path(points), IdentityTransform(), None)

    def area(
        self, points: npt.ArrayLike, colour: str, *, alpha: float = 1.0, within: Frame | None = None
    ) -> None:  # fmt: skip
        """A filled polygon with corners ``points`` (pixels)."""
        corners = np.asarray(points, dtype=np.float64)
        context = self._context(colour, 0.0, alpha, within)
        path = Path(np.concatenate([corners, corners[:1]]), closed=True)
        self._renderer.draw_path(context, path, IdentityTransform(), (*_rgb(colour), alpha))

    def panel(self, left: float, bottom: float, width: float, height: float, colour: str, alpha: float = 1.0) -> None:
        """A filled rectangle, in fractions of the sheet."""
        a, b, c, d = left * WIDTH, bottom * HEIGHT, (left + width) * WIDTH, (bottom + height) * HEIGHT
        self.area([(a, b), (c, b), (c, d), (a, d)], colour, alpha=alpha)

    def mark(self, frame: Frame, x: float, y: float, corners: int, colour: str) -> None:
        """An open mark about a point: a square or a diamond (4 or -4 corners), a circle (0)."""
        centre, size = frame.pixels(x, y), 3.7 * DPI / 72
        turn = np.arange(33) / 32 * 2 * math.pi if corners == 0 else np.arange(5) / 4 * 2 * math.pi
        if corners > 0:
            turn, size = turn + math.pi / 4, size * math.sqrt(2)
        ring = centre + size * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
        self.line(ring, colour, 1.8)

    def image(self, frame: Frame, levels: FloatArray, left: float, right: float) -> None:
        """A picture of ``levels`` (0 to 1, lowest row first) over all of the height, from x ``left`` to ``right``."""
        box = frame.box
        columns = frame.x[0] + (np.arange(round(box.width)) + 0.5) / box.width * (frame.x[1] - frame.x[0])
        place = np.floor((columns - left) / (right - left) * levels.shape[1])
        place = np.clip(place, 0, levels.shape[1] - 1).astype(np.intp)
        rows = (np.arange(round(box.height)) * levels.shape[0] // round(box.height)).astype(np.intp)
        colours = np.full((*levels.shape, 4), 255, dtype=np.uint8)
        colours[..., :3] = SCALE[np.clip(levels * 255, 0, 255).astype(np.uint8)]
        picture = np.ascontiguousarray(colours[rows][:, place])
        self._renderer.draw_image(self._renderer.new_gc(), box.x0, box.y0, picture)

    def add(
        self, x: float, y: float, text: str, size: float, colour: str = INK, anchor: str = "ls", *, bold: bool = False,
        halo: str = "", upright: bool = False,
    ) -> None:  # fmt: skip
        """One line of text at a place of the sheet; ``upright`` reads from below, centred on the place."""
        self.texts.append(Text(x, y, text, size, colour, anchor, bold, halo, upright))

    def png(self) -> bytes:
        """The sheet as PNG. The same drawing gives the same bytes."""
        image = Image.fromarray(np.asarray(self._renderer.buffer_rgba())[:, :, :3].copy())
        draw = ImageDraw.Draw(image)
        for item in self.texts:
            place = (item.x * WIDTH, (1 - item.y) * HEIGHT)
            if item.upright:
                _write_upright(image, item, place)
            elif item.halo:
                draw.text(place, item.text, fill=item.colour, font=item.font, anchor=item.anchor, stroke_width=3,
                          stroke_fill=item.halo)  # fmt: skip
            else:
                draw.text(place, item.text, fill=item.colour, font=item.font, anchor=item.anchor)
        # A palette of 192 colours keeps a sheet well below 400 kB, and no colour of ours needs more.
        small = image.quantize(colors=192, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        out = io.BytesIO()
        small.save(out, format="PNG", compress_level=4, dpi=(DPI, DPI))
        return out.getvalue()


def _rgb(colour: str) -> tuple[float, float, float]:
    if colour == "white":
        return 1.0, 1.0, 1.0
    return tuple(int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))  # type: ignore[return-value]


def _write_upright(image: Image.Image, item: Text, place: tuple[float, float]) -> None:
    left, top, right, bottom = item.font.getbbox(item.text)
    mask = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)), 0)
    ImageDraw.Draw(mask).text((-left, -top), item.text, fill=255, font=item.font)
    mask = mask.transpose(Image.Transpose.ROTATE_90)
    image.paste(item.colour, (round(place[0] - mask.width), round(place[1] - mask.height / 2)), mask)
