"""What dermoscopy sees, one function a structure; each adds to the maps of a scene, in place.

Source: the terms are those of dermoscopy textbooks (pattern analysis); shapes and amounts are our
own, set by eye beside public dermoscopy images. They model no patient and no population.
"""

from __future__ import annotations

import numpy as np

from dermagan_jax.data.phantom_scene import (
    HALF_WIDTH,
    Polyline,
    Scene,
    add_spots,
    distance_from,
    draw_lines,
    mottling,
    noise,
    scatter,
    smooth_step,
    zone,
)

_Rng = np.random.Generator

# --- Lines and lattices


def lattice(scene: Scene, rng: _Rng, *, spacing: float, disorder: float) -> np.ndarray:
    """Returns a honeycomb of lines in [0, 1] whose holes lie `spacing` apart.

    Three plane waves at 60 degrees make the honeycomb; noise bends it by `disorder` spacings.
    """
    bend = np.float32(spacing * disorder)
    x = scene.x + bend * noise(rng, scene.pixels, 12)
    y = scene.y + bend * noise(rng, scene.pixels, 12)
    wave = 2 * np.pi / spacing * 2 / np.sqrt(3)
    total = np.zeros_like(x)
    for angle in np.radians((0, 60, 120)) + rng.uniform(0, np.pi):
        total += np.cos(np.float32(wave * np.cos(angle)) * x + np.float32(wave * np.sin(angle)) * y)
    # The sum runs from -1.5 on the lines to 3 in the middle of the holes.
    return smooth_step(-0.3 - total, 1.8)


# --- Structures of pigmented lesions


def pigment_network(
    scene: Scene, rng: _Rng, body: np.ndarray, *, amount: float, disorder: float
) -> None:
    """Adds the brown grid of a pigment network; disorder above 0.3 makes it atypical."""
    lines = lattice(scene, rng, spacing=rng.uniform(0.04, 0.065), disorder=disorder)
    patchy = np.clip(0.6 + 1.4 * disorder * noise(rng, scene.pixels, 6), 0, 1.6)
    scene.melanin += amount * lines * patchy * body


def streaks(scene: Scene, rng: _Rng, depth: np.ndarray, *, amount: float) -> None:
    """Adds uneven radial streaks to one side of the border."""
    angle = np.arctan2(scene.y, scene.x)
    bend = 2.0 * noise(rng, scene.pixels, 5)
    spokes = smooth_step(np.sin(rng.integers(14, 30) * angle + bend) - 0.2, 1.2)
    spokes *= np.clip(0.5 + 0.7 * noise(rng, scene.pixels, 9), 0, 1.5)
    side = smooth_step(np.cos(angle - rng.uniform(0, 2 * np.pi)) + rng.uniform(-0.5, 0.4), 0.9)
    border = np.exp(-(((depth + 0.012) / rng.uniform(0.03, 0.05)) ** 2))
    scene.melanin += amount * spokes * side * border


def dots_and_globules(scene: Scene, rng: _Rng, *, count: int, radius: float, amount: float) -> None:
    """Adds brown to black dots of uneven size, crowded off-centre."""
    centre = scatter(rng, 1, 0.6 * radius)[0]
    centres = scatter(rng, count, 0.7 * radius, centre=centre)
    radii = rng.uniform(0.006, 0.02, count)
    add_spots(scene.melanin, centres, radii, amount * rng.uniform(0.3, 1.2, count), edge=0.8)


def blue_grey_veil(scene: Scene, rng: _Rng, body: np.ndarray, *, amount: float) -> None:
    """Covers a part of the lesion with the structureless, whitish-hazed blue-grey veil."""
    haze = np.clip(0.8 + 0.3 * mottling(rng, scene.pixels), 0.2, 1.2)
    scene.veil += amount * haze * body * zone(scene, rng, cells=5, cover=rng.uniform(-0.9, 0.3))


def regression(scene: Scene, rng: _Rng, body: np.ndarray, *, radius: float) -> None:
    """Bleaches a part of the lesion to scar-like white, with blue-grey peppering in it."""
    scar = body * zone(scene, rng, cells=5, cover=rng.uniform(-1.2, -0.3))
    scene.melanin *= 1 - 0.8 * scar
    scene.keratin += rng.uniform(0.15, 0.4) * scar
    count = int(rng.integers(8, 30))
    pepper = np.zeros_like(scar)
    add_spots(pepper, scatter(rng, count, radius), np.full(count, 0.007), np.full(count, 0.6))
    scene.veil += pepper * scar


# --- Structures of benign keratosis


def moth_eaten_border(scene: Scene, rng: _Rng, depth: np.ndarray) -> np.ndarray:
    """Returns the depth with small concave bites taken out of its border."""
    rim = np.argwhere(np.abs(depth) < 0.02)
    count = int(rng.integers(5, 14)) if len(rim) else 0
    chosen = rim[(rng.random(count) * len(rim)).astype(int)]
    centres = (chosen[:, ::-1] + 0.5) / scene.pixels * 2 * HALF_WIDTH - HALF_WIDTH
    bites = np.zeros_like(depth)
    add_spots(bites, centres, rng.uniform(0.02, 0.05, count), np.full(count, 0.15), edge=1.0)
    return depth - bites


def fissures(scene: Scene, rng: _Rng, body: np.ndarray, *, amount: float) -> None:
    """Adds the dark furrows between the ridges of a brain-like surface."""
    ridges = noise(rng, scene.pixels, int(rng.integers(9, 18)))
    furrows = np.exp(-((ridges / 0.25) ** 2)) - 0.25
    furrows *= np.clip(0.8 + 0.6 * noise(rng, scene.pixels, 8), 0, 2)
    scene.melanin += amount * furrows * body


def milia_like_cysts(scene: Scene, rng: _Rng, *, count: int, radius: float) -> None:
    """Adds bright round white to yellow cysts with a soft halo."""
    centres = scatter(rng, count, 0.85 * radius)
    radii = rng.uniform(0.007, 0.02, count)
    add_spots(scene.keratin, centres, radii, rng.uniform(0.25, 0.85, count), edge=1.2)


def comedo_like_openings(scene: Scene, rng: _Rng, *, count: int, radius: float) -> None:
    """Adds dark keratin plugs: round to oval, brown to black."""
    centres = scatter(rng, count, 0.85 * radius)
    radii = rng.uniform(0.008, 0.024, count)
    amounts, ratios = rng.uniform(0.4, 1.8, count), rng.uniform(1, 1.8, count)
    add_spots(scene.melanin, centres, radii, amounts, edge=0.7, elongation=ratios)


# --- Structures of basal cell carcinoma


def _grow_vessel(
    rng: _Rng,
    lines: list[Polyline],
    start: np.ndarray,
    angle: float,
    length: float,
    width: float,
) -> None:
    """Appends one vessel and its branches to `lines`, each thinner and shorter than its parent."""
    steps = max(3, int(length / 0.02))
    turns = np.cumsum(rng.normal(0, 0.25, steps)) + angle
    moves = length / steps * np.stack([np.cos(turns), np.sin(turns)], -1)
    points = np.concatenate([start[None], start + np.cumsum(moves, 0)])
    lines.append((points, width))
    if width < 0.005:
        return
    for index in rng.integers(1, steps, int(rng.integers(2, 5))):
        aside = angle + rng.choice((-1, 1)) * rng.uniform(0.4, 1.1)
        _grow_vessel(rng, lines, points[index], aside, length * rng.uniform(0.35, 0.7), width * 0.6)


def arborising_vessels(
    scene: Scene, rng: _Rng, *, count: int, radius: float, amount: float
) -> None:
    """Adds sharp bright red trees: thick stems that branch into ever finer vessels."""
    lines: list[Polyline] = []
    for start in scatter(rng, count, radius):
        inward = np.arctan2(-start[1], -start[0]) + rng.normal(0, 0.6)
        length, width = radius * rng.uniform(0.6, 1.4), rng.uniform(0.007, 0.014)
        _grow_vessel(rng, lines, start, inward, length, width)
    # Vessels dip in and out of the depth in focus.
    visible = np.clip(0.8 + 0.5 * noise(rng, scene.pixels, 10), 0.1, 1.3)
    scene.blood += amount * visible * draw_lines(scene.pixels, HALF_WIDTH, lines)


def ovoid_nests(scene: Scene, rng: _Rng, *, count: int, radius: float) -> None:
    """Adds blue-grey ovals, from globules to large nests, some joined into leaf-like areas."""
    centres = scatter(rng, count, 0.85 * radius)
    radii, ratios = rng.uniform(0.012, 0.05, count), rng.uniform(1.0, 2.4, count)
    opacity = rng.uniform(0.25, 0.8, count)
    nests = np.zeros_like(scene.veil)
    add_spots(nests, centres, radii, opacity, edge=1.2, elongation=ratios)
    nests *= np.clip(1 + 0.25 * mottling(rng, scene.pixels), 0.2, 1.5)
    scene.veil += nests
    scene.melanin += rng.uniform(0.6, 2.0) * nests


def ulceration(scene: Scene, rng: _Rng, *, radius: float) -> None:
    """Adds a blood-crusted ulcer: a ragged dark red patch off the centre."""
    x, y = scatter(rng, 1, 0.5 * radius)[0]
    size = radius * rng.uniform(0.15, 0.45)
    ragged = 1 + 0.4 * noise(rng, scene.pixels, 10) + 0.3 * noise(rng, scene.pixels, 28)
    wound = smooth_step(size * ragged - distance_from(scene, x, y), 0.04)
    wound *= np.clip(0.8 + 0.4 * mottling(rng, scene.pixels), 0.1, 1.6)
    scene.blood += wound * rng.uniform(0.5, 1.4)
    scene.melanin += wound * rng.uniform(0.2, 1.2)


# --- Structures of actinic keratosis


def follicular_openings(scene: Scene, rng: _Rng, body: np.ndarray, *, amount: float) -> None:
    """Adds the strawberry pattern: a red pseudonetwork broken by pale follicular openings."""
    red_net = lattice(scene, rng, spacing=rng.uniform(0.06, 0.09), disorder=0.4)
    openings = smooth_step(0.35 - red_net + 0.3 * noise(rng, scene.pixels, 14), 0.7)
    openings *= body * np.clip(0.7 + 0.5 * noise(rng, scene.pixels, 6), 0, 1.3)
    scene.blood += amount * (0.45 * body - openings)
    np.maximum(scene.blood, 0.05, out=scene.blood)
    scene.keratin += 0.18 * amount * openings


def surface_scale(scene: Scene, rng: _Rng, body: np.ndarray, *, amount: float) -> None:
    """Adds flakes of white to yellow surface scale, crumbled at the edges."""
    pixels = scene.pixels
    flakes = 1.2 * noise(rng, pixels, 44) + 0.6 * noise(rng, pixels, 22) + noise(rng, pixels, 7)
    crumbs = smooth_step(flakes - rng.uniform(1.4, 2.6), 1.2)
    scene.keratin += amount * crumbs * body
