"""The four lesion classes as recipes: which structures a lesion has, how often and how strongly.

Each class follows the criteria that dermoscopy teaches for it, and each has variants that borrow
from its mimics (a tan lentigo, a pink melanoma, a pigmented carcinoma), so that the classes overlap
as the real ones do and no classifier is perfect on them.

Source: general dermoscopy teaching (pattern analysis and the ABCD rule), in our own words, at each
function. The probabilities and amounts are our own choices, not statistics of any population.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dermagan_jax.data import phantom_structures as structures
from dermagan_jax.data.phantom_scene import Scene, lesion_depth, mottling, smooth_step, zone

Recipe = Callable[[Scene, np.random.Generator], None]


def _chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def _uneven(scene: Scene, rng: np.random.Generator, contrast: float) -> np.ndarray:
    """Returns a factor around 1, never negative, by which a colour varies from place to place."""
    return np.clip(1 + contrast * mottling(rng, scene.pixels), 0.05, 2.2)


def melanoma(scene: Scene, rng: np.random.Generator) -> None:
    """Asymmetric, with a notched border and several colours.

    Source: asymmetry, irregular border, many colours (tan, dark brown, black, blue-grey, red,
    white), atypical network, irregular streaks, dots and globules, blue-white veil, regression.
    The variants are the pale flat and the pink (hypomelanotic) melanoma.
    """
    variant = rng.choice(("spreading", "flat", "pink"), p=(0.74, 0.16, 0.10))
    radius = rng.uniform(0.2, 0.4)
    depth = lesion_depth(
        scene,
        rng,
        radius=radius,
        elongation=rng.uniform(1.0, 1.9),
        asymmetry=rng.uniform(0.08, 0.26),
        notching=rng.uniform(0.04, 0.12),
    )
    body = smooth_step(depth, rng.uniform(0.03, 0.12))
    tan = {"spreading": rng.uniform(0.4, 1.2), "flat": rng.uniform(0.3, 0.7), "pink": 0.15}[variant]
    scene.melanin += tan * body * _uneven(scene, rng, 0.5)
    if variant != "flat" or _chance(rng, 0.4):
        dark = zone(scene, rng, cells=4, cover=rng.uniform(-0.9, 0.3))
        amount = rng.uniform(0.8, 2.6) if variant == "spreading" else rng.uniform(0.2, 0.8)
        scene.melanin += amount * dark * smooth_step(depth - 0.01, 0.04)
    if _chance(rng, 0.6):
        structures.pigment_network(
            scene, rng, body, amount=rng.uniform(0.4, 1.1), disorder=rng.uniform(0.3, 0.6)
        )
    if variant == "spreading" and _chance(rng, 0.5):
        structures.streaks(scene, rng, depth, amount=rng.uniform(0.6, 1.6))
    if _chance(rng, 0.6):
        count = int(rng.integers(6, 30))
        structures.dots_and_globules(
            scene, rng, count=count, radius=radius, amount=rng.uniform(0.6, 1.8)
        )
    if _chance(rng, 0.45):
        structures.blue_grey_veil(scene, rng, body, amount=rng.uniform(0.35, 0.8))
    if _chance(rng, 0.3):
        structures.regression(scene, rng, body, radius=radius)
    if variant == "pink" or _chance(rng, 0.35):
        red = zone(scene, rng, cells=4, cover=rng.uniform(-0.8, 0.4))
        scene.blood += rng.uniform(0.25, 0.7) * red * body


def benign_keratosis(scene: Scene, rng: np.random.Generator) -> None:
    """Sharply marked off, stuck on, of one brown, with cysts, plugs and furrows.

    Source: sharp border, moth-eaten in flat ones; milia-like cysts, comedo-like openings, fissures
    and ridges (brain-like), fingerprint-like lines. The variants are the flat tan lentigo, the dark
    one and the pink irritated or lichenoid one.
    """
    variant = rng.choice(("stuck_on", "lentigo", "dark", "irritated"), p=(0.5, 0.23, 0.12, 0.15))
    radius = rng.uniform(0.16, 0.38)
    depth = lesion_depth(
        scene,
        rng,
        radius=radius,
        elongation=rng.uniform(1.0, 1.7),
        asymmetry=rng.uniform(0.03, 0.14),
        notching=rng.uniform(0.01, 0.05),
    )
    if _chance(rng, 0.7 if variant == "lentigo" else 0.3):
        depth = structures.moth_eaten_border(scene, rng, depth)
    edge = rng.uniform(0.05, 0.14) if variant == "irritated" else rng.uniform(0.012, 0.05)
    body = smooth_step(depth, edge)
    brown = {
        "stuck_on": rng.uniform(0.4, 1.3),
        "lentigo": rng.uniform(0.3, 0.7),
        "dark": rng.uniform(1.3, 2.6),
        "irritated": rng.uniform(0.05, 0.5),
    }[variant]
    scene.melanin += brown * body * _uneven(scene, rng, 0.3)
    if variant == "irritated":
        scene.blood += rng.uniform(0.2, 0.6) * body * _uneven(scene, rng, 0.4)
        if _chance(rng, 0.4):
            structures.surface_scale(scene, rng, body, amount=rng.uniform(0.2, 0.6))
    if variant == "lentigo":
        if _chance(rng, 0.6):
            structures.pigment_network(
                scene, rng, body, amount=rng.uniform(0.2, 0.5), disorder=0.35
            )
        return
    if _chance(rng, 0.5):
        structures.fissures(scene, rng, body, amount=rng.uniform(0.3, 0.9))
    if _chance(rng, 0.6):
        structures.milia_like_cysts(scene, rng, count=int(rng.integers(3, 22)), radius=radius)
    if _chance(rng, 0.5):
        structures.comedo_like_openings(scene, rng, count=int(rng.integers(3, 20)), radius=radius)
    if _chance(rng, 0.12):
        structures.blue_grey_veil(scene, rng, body, amount=rng.uniform(0.2, 0.6))


def basal_cell_carcinoma(scene: Scene, rng: np.random.Generator) -> None:
    """Pink and translucent, with arborising vessels and blue-grey nests, without a network.

    Source: no pigment network; arborising vessels, ovoid nests and globules of blue-grey,
    ulceration, a pearly sheen. The variants are the superficial one, pink with fine scale, and the
    heavily pigmented one.
    """
    variant = rng.choice(("nodular", "superficial", "pigmented"), p=(0.55, 0.27, 0.18))
    radius = rng.uniform(0.16, 0.36)
    depth = lesion_depth(
        scene,
        rng,
        radius=radius,
        elongation=rng.uniform(1.0, 1.6),
        asymmetry=rng.uniform(0.05, 0.18),
        notching=rng.uniform(0.01, 0.05),
    )
    body = smooth_step(depth, rng.uniform(0.06, 0.2))
    scene.melanin *= 1 - rng.uniform(0.2, 0.7) * body
    scene.blood += rng.uniform(0.12, 0.5) * body * _uneven(scene, rng, 0.45)
    pearl = zone(scene, rng, cells=5, cover=-0.2) * body
    scene.keratin += rng.uniform(0.0, 0.22) * pearl
    if _chance(rng, 0.3 if variant == "superficial" else 0.8):
        structures.arborising_vessels(
            scene,
            rng,
            count=int(rng.integers(1, 5)),
            radius=radius,
            amount=rng.uniform(0.35, 0.9),
        )
    if variant == "pigmented" or _chance(rng, 0.35):
        count = int(rng.integers(6, 16) if variant == "pigmented" else rng.integers(1, 6))
        structures.ovoid_nests(scene, rng, count=count, radius=radius)
    if variant == "pigmented":
        brown = zone(scene, rng, cells=6, cover=rng.uniform(-0.8, 0.2))
        scene.melanin += rng.uniform(0.3, 1.3) * brown * body
    if _chance(rng, 0.3):
        structures.ulceration(scene, rng, radius=radius)
    if _chance(rng, 0.55 if variant == "superficial" else 0.1):
        structures.surface_scale(scene, rng, body, amount=rng.uniform(0.2, 0.6))


def actinic_keratosis(scene: Scene, rng: np.random.Generator) -> None:
    """A pink to red, ill-defined, scaly patch with the strawberry pattern.

    Source: red pseudonetwork broken by pale follicular openings (strawberry pattern), white to
    yellow surface scale, no sharp border. The variant is the pigmented one, brown around the
    follicles, which mimics lentigo and melanoma of the face.
    """
    pigmented = _chance(rng, 0.3)
    radius = rng.uniform(0.18, 0.4)
    depth = lesion_depth(
        scene,
        rng,
        radius=radius,
        elongation=rng.uniform(1.0, 1.8),
        asymmetry=rng.uniform(0.15, 0.35),
        notching=rng.uniform(0.05, 0.14),
    )
    body = smooth_step(depth, rng.uniform(0.12, 0.3))
    scene.blood += rng.uniform(0.15, 0.55) * body * _uneven(scene, rng, 0.6)
    if pigmented:
        scene.melanin += rng.uniform(0.25, 0.9) * body * _uneven(scene, rng, 0.7)
    if _chance(rng, 0.7):
        structures.follicular_openings(scene, rng, body, amount=rng.uniform(0.3, 0.8))
    if _chance(rng, 0.65):
        structures.surface_scale(scene, rng, body, amount=rng.uniform(0.25, 0.8))


RECIPES: tuple[Recipe, ...] = (
    actinic_keratosis,
    basal_cell_carcinoma,
    benign_keratosis,
    melanoma,
)
"""One recipe a class, in the order of `lesions.CLASSES`."""
