"""Procedural dermoscopy phantoms: the embedded data set, which needs no download.

A phantom is drawn from its path string alone, so the set needs no files: the path's seed, label and
lesion number fix the lesion and the skin around it, and the view number fixes how it is pictured
(rotation, distance, light, hair, ruler, vignette, bubbles, noise). Skin and camera are drawn
without regard to the class. Phantoms exercise the software; they say nothing about skin.
"""

from __future__ import annotations

import re

import numpy as np
from scipy import ndimage

from dermagan_jax import lesions
from dermagan_jax.data.phantom_lesions import RECIPES
from dermagan_jax.data.phantom_scene import (
    HALF_WIDTH,
    Scene,
    add_spots,
    draw_lines,
    empty_scene,
    noise,
    reflectance,
    smooth_step,
)
from dermagan_jax.data.records import Record
from dermagan_jax.errors import DermaganError

OVERSAMPLING = 3
"""Pixels drawn for each pixel of the image, on a side; their means are the image."""

VIEW_PROBABILITIES = (0.6, 0.25, 0.15)
"""How often a lesion has one, two or three views."""

HAIR_PROBABILITIES = (0.6, 0.25, 0.15)
"""How often a view has no hair, a few hairs or many."""

_PATH = re.compile(r"phantom:(\d+):(\d+):(\d+):(\d+)", re.ASCII)

# The first word of each stream's seed. None is 0, because NumPy pads seeds with zeros.
_LISTING, _LESION, _VIEW = 1, 2, 3


def records(per_class: int, *, seed: int) -> list[Record]:
    """Lists phantom images: `per_class` of each class, one to three views of each lesion.

    A longer listing of the same seed starts, class by class, with the same images.

    Args:
      per_class: images of each class, at least 1.
      seed: chooses the set; not negative.

    Returns:
      4 * per_class records, sorted by label, lesion and view.

    Raises:
      DermaganError: `per_class` or `seed` out of range.
    """
    if per_class < 1 or seed < 0:
        raise DermaganError(
            f"phantom: {per_class} images a class, seed {seed}: "
            "ask for at least 1 image a class and a seed that is not negative"
        )
    listing = []
    for label, short_name in enumerate(lesions.SHORT_NAMES):
        rng = np.random.default_rng((_LISTING, seed, label))
        lesion, left = 0, per_class
        while left:
            drawn = 1 + int(rng.choice(len(VIEW_PROBABILITIES), p=VIEW_PROBABILITIES))
            lesion_id = f"PHANTOM_{seed}_{short_name}_{lesion:05d}"
            num_views = min(left, drawn)
            listing += [_record(seed, label, lesion, lesion_id, view) for view in range(num_views)]
            lesion, left = lesion + 1, left - num_views
    return listing


def _record(seed: int, label: int, lesion: int, lesion_id: str, view: int) -> Record:
    return Record(
        image_id=f"{lesion_id}_{view}",
        lesion_id=lesion_id,
        label=label,
        source="phantom",
        site="PHANTOM",
        path=f"phantom:{seed}:{label}:{lesion}:{view}",
    )


def render(path: str, *, size: int = 64) -> np.ndarray:
    """Draws the phantom that a path names.

    Args:
      path: `phantom:SEED:LABEL:LESION:VIEW`, as `records` gives it.
      size: side in pixels, at least 8.

    Returns:
      uint8 [size, size, 3]; the same for the same path and size.

    Raises:
      DermaganError: the path is of another form or names no class, or the size is too small.
    """
    match = _PATH.fullmatch(path)
    if match is None or int(match[2]) >= lesions.NUM_CLASSES:
        raise DermaganError(
            f"phantom path {path!r}: expected phantom:SEED:LABEL:LESION:VIEW "
            f"with four whole numbers, LABEL below {lesions.NUM_CLASSES}"
        )
    if size < 8:
        raise DermaganError(f"phantom size {size}: ask for at least 8 pixels")
    seed, label, lesion, view = map(int, match.groups())
    scene = _lesion_on_skin(np.random.default_rng((_LESION, seed, label, lesion)), label, size)
    rng = np.random.default_rng((_VIEW, seed, label, lesion, view))
    return _develop(_picture(scene, rng, size), rng)


# --- The lesion and its skin


def _lesion_on_skin(rng: np.random.Generator, label: int, size: int) -> Scene:
    """Returns the scene of one lesion, at the resolution that an image of `size` needs."""
    scene = empty_scene(round(2 * HALF_WIDTH * OVERSAMPLING * size))
    _add_skin(scene, rng)
    RECIPES[label](scene, rng)
    np.maximum(scene.melanin, 0, out=scene.melanin)
    return scene


def _add_skin(scene: Scene, rng: np.random.Generator) -> None:
    """Lays down skin from fair to dark, mottled, with fine lines and now and then freckles."""
    pixels = scene.pixels
    tone = 0.06 + 1.2 * rng.beta(1.0, 2.8)
    unevenness = 0.08 * noise(rng, pixels, 6) + 0.06 * noise(rng, pixels, 40)
    scene.melanin += tone * (1 + unevenness)
    flush = rng.uniform(0.06, 0.3)
    unevenness = 0.22 * noise(rng, pixels, 9) + 0.16 * noise(rng, pixels, 48)
    scene.blood += flush * np.clip(1 + unevenness, 0, 2)
    skin_lines = np.abs(noise(rng, pixels, 44))
    scene.melanin -= rng.uniform(0.0, 0.05) * skin_lines
    if rng.random() < 0.25:
        count = int(rng.integers(3, 16))
        centres = rng.uniform(-HALF_WIDTH, HALF_WIDTH, (count, 2))
        radii = rng.uniform(0.015, 0.06, count)
        add_spots(scene.melanin, centres, radii, rng.uniform(0.08, 0.35, count), edge=1.2)


# --- The camera


def _picture(scene: Scene, rng: np.random.Generator, size: int) -> np.ndarray:
    """Takes a view of the scene: [size, size, 3], turned, scaled, shifted, lit and overlaid."""
    view = reflectance(scene.take(_view_indices(scene.pixels, size * OVERSAMPLING, rng)))
    _light(view, rng)
    _add_hair(view, rng)
    _overlay(view, rng)
    mean = np.zeros((3, size, size), np.float32)
    for row, column in np.ndindex(OVERSAMPLING, OVERSAMPLING):
        mean += view[:, row::OVERSAMPLING, column::OVERSAMPLING] / np.float32(OVERSAMPLING**2)
    return np.moveaxis(mean, 0, -1)


def _view_indices(pixels: int, fine: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the flat index of the scene's pixel nearest to each of the view's: [fine, fine].

    The nearest one is good enough, because each pixel of the image is the mean of several. Where a
    turned view looks past the scene, the scene is mirrored.
    """
    angle, zoom = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.2)
    shift_x, shift_y = rng.normal(0, 0.05, 2)
    axis = ((np.arange(fine) + 0.5) / fine - 0.5) * zoom * pixels / (2 * HALF_WIDTH)
    columns = axis * np.cos(angle) - (axis * np.sin(angle))[:, None]
    rows = axis * np.sin(angle) + (axis * np.cos(angle))[:, None]
    places = []
    for centre, shift in ((rows, shift_y), (columns, shift_x)):
        place = np.abs((centre + (0.5 + shift) * pixels).astype(np.int32))
        places.append(np.minimum(place, 2 * pixels - 1 - place))
    return places[0] * pixels + places[1]


def _light(view: np.ndarray, rng: np.random.Generator) -> None:
    """Applies exposure, white balance, an uneven light and darker corners, in place."""
    balance = rng.uniform(0.88, 1.1) * rng.normal(1, (0.02, 0.035, 0.06))
    axis = np.linspace(-1, 1, view.shape[1], dtype=np.float32)
    slope_x, slope_y = rng.normal(0, 0.06, 2).astype(np.float32)
    falloff = np.float32(rng.uniform(0, 0.12)) * axis**2
    gradient = 1 + (slope_x * axis - falloff) + (slope_y * axis - falloff)[:, None]
    view *= gradient
    view *= balance.astype(np.float32)[:, None, None]


def _add_hair(view: np.ndarray, rng: np.random.Generator) -> None:
    """Lays curved hairs over the view, in place: none on most, a few to many on others."""
    fewest, most = ((0, 0), (1, 4), (5, 17))[rng.choice(3, p=HAIR_PROBABILITIES)]
    count = int(rng.integers(fewest, most, endpoint=True))
    if not count:
        return
    shade = np.array([0.16, 0.11, 0.08], np.float32) * np.float32(rng.uniform(0.5, 2.6))
    growth = rng.uniform(0, np.pi)
    t = np.linspace(0, 1, 12)[:, None]
    hairs = []
    for _ in range(count):
        angle = growth + rng.normal(0, 0.5)
        along = rng.uniform(0.25, 0.7) * np.array([np.cos(angle), np.sin(angle)])
        points = rng.uniform(-0.5, 0.5, 2) + (2 * t - 1) * along
        points += 4 * t * (1 - t) * rng.normal(0, 0.18, 2)
        hairs.append((points, rng.uniform(0.003, 0.01)))
    opacity = np.float32(rng.uniform(0.6, 0.95)) * draw_lines(view.shape[1], 0.5, hairs)
    view += opacity * (shade[:, None, None] - view)


def _overlay(view: np.ndarray, rng: np.random.Generator) -> None:
    """Adds what lies between skin and eye, in place: bubbles, ruler, the lens's black surround."""
    axis = (np.arange(view.shape[1], dtype=np.float32) + 0.5) / view.shape[1] - 0.5
    x, y = axis, axis[:, None]
    if rng.random() < 0.06:
        for _ in range(int(rng.integers(1, 5))):
            _add_bubble(view, x, y, rng)
    if rng.random() < 0.07:
        _add_ruler(view, rng)
    if rng.random() < 0.3:
        middle_x, middle_y = rng.normal(0, 0.02, 2).astype(np.float32)
        distance = np.sqrt((x - middle_x) ** 2 + (y - middle_y) ** 2)
        radius = np.float32(rng.uniform(0.42, 0.66))
        view *= smooth_step(radius - distance, rng.uniform(0.02, 0.12))


def _add_bubble(view: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> None:
    """Adds a bubble in the gel: a thin bright rim, brighter on the side of its gleam."""
    middle_x, middle_y = rng.uniform(-0.45, 0.45, 2).astype(np.float32)
    radius = np.float32(rng.uniform(0.02, 0.09))
    right, below = x - middle_x, y - middle_y
    rim = np.exp(-(((np.sqrt(right**2 + below**2) - radius) / 0.007) ** 2))
    lit = np.clip(0.5 - (right + below) / (2 * radius), 0, 1)
    gleam = np.exp(-(((right + 0.5 * radius) ** 2 + (below + 0.5 * radius) ** 2) / 0.01**2))
    view += 0.22 * rim * lit + 0.4 * gleam


def _add_ruler(view: np.ndarray, rng: np.random.Generator) -> None:
    """Prints a ruler's ticks along one edge, every fifth one longer."""
    pixels = view.shape[1]
    spacing = rng.uniform(0.05, 0.09)
    thickness = max(1, round(0.008 * pixels))
    printed = np.zeros((pixels, pixels), bool)
    for index, position in enumerate(np.arange(rng.uniform(0, spacing), 1, spacing)):
        start = int(position * pixels)
        length = round((0.1 if index % 5 == 0 else 0.055) * pixels)
        printed[-length:, start : start + thickness] = True
    view *= np.where(np.rot90(printed, int(rng.integers(4))), np.float32(0.3), np.float32(1))


def _develop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns uint8 from colours in [0, 1], with a slight blur and the sensor's noise."""
    blur = rng.uniform(0.1, 0.5) * image.shape[0] / 64
    image = ndimage.gaussian_filter(image, (blur, blur, 0))
    image += rng.uniform(0.004, 0.016) * rng.standard_normal(image.shape, np.float32)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
