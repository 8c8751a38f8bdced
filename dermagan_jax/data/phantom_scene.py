"""A piece of skin as maps of what colours it, and the fields and masks that structures are made of.

A `Scene` holds four maps: melanin near the surface (tan to black as it thickens), blood (pink to
red), the blue-grey veil of melanin deep in the dermis, and pale keratin or scar. `reflectance`
turns them into colour by Beer-Lambert absorption, so that tan, brown, black, pink and blue-grey
come out of amounts and not out of a list of paints.

Lengths are in widths of the reference view: 1.0 is the image's width, the lesion lies at (0, 0).
Random fields come from a fixed number of random values, so resolution does not change the picture.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import sparse

HALF_WIDTH = 0.65
"""The scene spans [-HALF_WIDTH, HALF_WIDTH]: views rotate and shift inside it."""

# Absorption of red, green and blue light by one unit of each pigment, and what bare dermis returns.
MELANIN_ABSORPTION = np.array([0.42, 0.86, 1.34], np.float32)
BLOOD_ABSORPTION = np.array([0.13, 0.84, 0.70], np.float32)
DERMIS = np.array([0.95, 0.91, 0.89], np.float32)
# Deep melanin scatters blue light back (Tyndall effect); keratin and scars scatter all of it.
BLUE_GREY = np.array([0.49, 0.53, 0.61], np.float32)
KERATIN = np.array([0.95, 0.91, 0.83], np.float32)

# A random cubic B-spline surface has this standard deviation for coefficients of deviation 1.
_SPLINE_DEVIATION = np.float32(151 / 315)

Polyline = tuple[np.ndarray, float]
"""Points [n, 2] as (x, y) and the line's width, both in view widths."""


@dataclasses.dataclass
class Scene:
    """The maps of one lesion and the skin around it.

    Attributes:
      x, y: [P, P] float32 coordinates of the pixels, x to the right and y down.
      melanin: [P, P] float32 >= 0, about 0.1 for fair skin and 3 for black.
      blood: [P, P] float32 >= 0, about 0.2 for skin and 1 for a vessel.
      veil: [P, P] float32, opacity of the blue-grey veil, read as if clipped to [0, 1].
      keratin: [P, P] float32, opacity of keratin or scar, likewise.
    """

    x: np.ndarray
    y: np.ndarray
    melanin: np.ndarray
    blood: np.ndarray
    veil: np.ndarray
    keratin: np.ndarray

    @property
    def pixels(self) -> int:
        """The number P of pixels on a side."""
        return self.x.shape[0]

    def take(self, indices: np.ndarray) -> Scene:
        """Returns the scene at flat pixel `indices`, which give the new scene its shape."""
        values = (getattr(self, field.name).ravel() for field in dataclasses.fields(self))
        return Scene(*(np.take(value, indices) for value in values))


def empty_scene(pixels: int) -> Scene:
    """Returns a scene of `pixels` on a side without pigment."""
    axis = ((np.arange(pixels, dtype=np.float32) + 0.5) / pixels * 2 - 1) * HALF_WIDTH
    x, y = np.meshgrid(axis, axis)
    return Scene(x, y, *(np.zeros((pixels, pixels), np.float32) for _ in range(4)))


def reflectance(scene: Scene) -> np.ndarray:
    """Returns the colours of a scene: [3, P, P] float32 in [0, 1], red, green and blue."""
    colour = np.empty((3, *scene.melanin.shape), np.float32)
    for channel, plane in enumerate(colour):
        # In place: fresh arrays of this size cost more than the arithmetic.
        np.multiply(scene.melanin, -MELANIN_ABSORPTION[channel], out=plane)
        plane -= BLOOD_ABSORPTION[channel] * scene.blood
        np.exp(plane, out=plane)
        plane *= DERMIS[channel]
    # The veil lies below the pigment that covers it, which still darkens what it sends back.
    lightness = 0.5 + 0.7 * colour[1]
    veil, keratin = np.clip(scene.veil, 0, 1), np.clip(scene.keratin, 0, 1)
    for channel, plane in enumerate(colour):
        plane += veil * (BLUE_GREY[channel] * lightness - plane)
        plane += keratin * (KERATIN[channel] - plane)
    return colour


@functools.lru_cache(maxsize=64)
def _spline_weights(pixels: int, cells: int) -> sparse.csr_array:
    """Returns the [pixels, cells + 3] weights of a uniform cubic B-spline, four a row."""
    position = (np.arange(pixels) + 0.5) / pixels * cells
    first = np.floor(position).astype(int)
    t = position - first
    basis = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * t * (1 + t - t**2) + 1, t**3)
    weights = np.zeros((pixels, cells + 3), np.float32)
    for offset, weight in enumerate(basis):
        weights[np.arange(pixels), first + offset] = weight / 6
    return sparse.csr_array(weights)


def noise(rng: np.random.Generator, pixels: int, cells: int) -> np.ndarray:
    """Returns a smooth random field: [pixels, pixels] float32 of mean 0 and deviation about 1.

    Args:
      rng: the source of randomness.
      pixels: side of the field.
      cells: bumps on a side.
    """
    # Sparse, because a dense product starts BLAS threads, which cost far more than this product
    # where several processes draw at once; and its sums are in the same order on every machine.
    weights = _spline_weights(pixels, cells)
    surface = rng.standard_normal((cells + 3, cells + 3), np.float32) / _SPLINE_DEVIATION
    return weights @ (weights @ surface).T


def mottling(rng: np.random.Generator, pixels: int) -> np.ndarray:
    """Returns noise of three scales, as skin and pigment show it: deviation about 1."""
    coarse, middle, fine = (noise(rng, pixels, cells) for cells in (6, 15, 36))
    return 0.65 * coarse + 0.55 * middle + 0.5 * fine


def smooth_step(values: np.ndarray, width: float) -> np.ndarray:
    """Rises from 0 to 1 over `width`, centred at 0."""
    t = values * np.float32(1 / width)
    t += np.float32(0.5)
    np.clip(t, 0, 1, out=t)
    return t * t * (3 - 2 * t)


def distance_from(scene: Scene, x: float, y: float, *, elongation: float = 1.0) -> np.ndarray:
    """Returns each pixel's distance from a point, in an ellipse's measure: [P, P]."""
    stretch = np.float32(elongation)
    return np.sqrt((scene.x - x) ** 2 / stretch + (scene.y - y) ** 2 * stretch)


def lesion_depth(
    scene: Scene,
    rng: np.random.Generator,
    *,
    radius: float,
    elongation: float,
    asymmetry: float,
    notching: float,
) -> np.ndarray:
    """Returns how deep each pixel lies inside a lesion: [P, P], negative outside.

    Args:
      scene: gives the coordinates.
      rng: the source of randomness.
      radius: mean radius in view widths.
      elongation: ratio of the axes; 1 is round.
      asymmetry: strength of the slow deviations of the border, as a part of the radius.
      notching: strength of the fast ones.
    """
    wobble = 1 + asymmetry * noise(rng, scene.pixels, 4)
    wobble += notching * noise(rng, scene.pixels, 11)
    wobble += 0.5 * notching * noise(rng, scene.pixels, 28)
    return radius * wobble - distance_from(scene, 0.0, 0.0, elongation=elongation)


def zone(scene: Scene, rng: np.random.Generator, *, cells: int, cover: float) -> np.ndarray:
    """Returns a random patchy mask in [0, 1]: larger `cover`, in deviations, covers more."""
    field = noise(rng, scene.pixels, cells) + 0.35 * noise(rng, scene.pixels, 5 * cells)
    return smooth_step(field + cover, 1.2)


def draw_lines(pixels: int, half_width: float, lines: Sequence[Polyline]) -> np.ndarray:
    """Returns a mask of 0 and 1 with lines drawn in it: [pixels, pixels] float32.

    Args:
      pixels: side of the mask, which spans [-half_width, half_width].
      half_width: see above.
      lines: what to draw.
    """
    image = Image.new("L", (pixels, pixels))
    draw = ImageDraw.Draw(image)
    density = pixels / (2 * half_width)
    for points, width in lines:
        corners = [tuple(point) for point in ((points + half_width) * density).tolist()]
        draw.line(corners, fill=255, width=max(1, round(width * density)), joint="curve")
    return np.asarray(image, np.float32) / 255


def scatter(
    rng: np.random.Generator, count: int, radius: float, *, centre: Sequence[float] = (0, 0)
) -> np.ndarray:
    """Returns `count` points [n, 2] spread evenly over a disc."""
    distance = radius * np.sqrt(rng.random(count))
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([distance * np.cos(angle), distance * np.sin(angle)], -1) + np.asarray(centre)


def add_spots(
    target: np.ndarray,
    centres: np.ndarray,
    radii: np.ndarray,
    amounts: np.ndarray,
    *,
    edge: float = 0.5,
    elongation: np.ndarray | None = None,
) -> None:
    """Adds soft discs, or ovals at scattered angles, to a map in place.

    Args:
      target: [P, P] map.
      centres: [n, 2] (x, y) in view widths.
      radii: [n] in view widths.
      amounts: [n] added at each centre (negative takes away).
      edge: width of the border as a part of the radius.
      elongation: [n] ratio of the axes; the angle follows from the place. None for discs.
    """
    pixels = target.shape[0]
    density = pixels / (2 * HALF_WIDTH)
    ratios = np.ones(len(radii)) if elongation is None else elongation
    reaches = radii * np.sqrt(ratios) * (1 + edge) + 1 / density
    starts = np.clip((centres - reaches[:, None] + HALF_WIDTH) * density, 0, pixels).astype(int)
    stops = np.clip((centres + reaches[:, None] + HALF_WIDTH) * density, 0, pixels).astype(int)
    axis = (np.arange(pixels, dtype=np.float32) + 0.5) / density - HALF_WIDTH
    for index, ((x, y), (left, top), (right, bottom)) in enumerate(
        zip(centres, starts, stops, strict=True)
    ):
        across, down = axis[left:right] - x, (axis[top:bottom] - y)[:, None]
        angle, ratio = 40.0 * (x + y), ratios[index]
        along = across * np.cos(angle) + down * np.sin(angle)
        aside = down * np.cos(angle) - across * np.sin(angle)
        inside = radii[index] - np.sqrt(along**2 / ratio + aside**2 * ratio)
        target[top:bottom, left:right] += amounts[index] * smooth_step(inside, edge * radii[index])
