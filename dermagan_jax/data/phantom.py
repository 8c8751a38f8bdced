"""Procedural dermoscopy phantoms: the embedded data set that needs no download (says nothing about skin)."""

from __future__ import annotations

import re

import numpy as np

from dermagan_jax import lesions
from dermagan_jax.data.records import Record
from dermagan_jax.errors import DermaganError

_PATH = re.compile(r"phantom:(\d+):(\d+):(\d+):(\d+)")


def records(per_class: int, *, seed: int) -> list[Record]:
    """Lists `per_class` phantom images of each class, one to three views of each lesion."""
    listing = []
    for label, short in enumerate(lesions.SHORT_NAMES):
        rng = np.random.default_rng((seed, label))
        lesion, left = 0, per_class
        while left:
            views = min(left, int(rng.choice(3, p=(0.6, 0.25, 0.15))) + 1)
            lesion_id = f"PHANTOM_{seed}_{short}_{lesion:05d}"
            for view in range(views):
                listing.append(
                    Record(
                        image_id=f"{lesion_id}_{view}",
                        lesion_id=lesion_id,
                        label=label,
                        source="phantom",
                        site="PHANTOM",
                        path=f"phantom:{seed}:{label}:{lesion}:{view}",
                    )
                )
            lesion, left = lesion + 1, left - views
    return listing


def render(path: str, *, size: int = 64) -> np.ndarray:
    """Renders the phantom that `path` names: uint8 [size, size, 3]."""
    match = _PATH.fullmatch(path)
    if not match or int(match[2]) >= lesions.NUM_CLASSES:
        raise DermaganError(f"phantom path {path!r}: expected phantom:SEED:LABEL:LESION:VIEW")
    seed, label, lesion, view = map(int, match.groups())
    rng = np.random.default_rng((seed, label, lesion))
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    skin = np.array([0.85, 0.65, 0.55])
    colours = np.array([[0.8, 0.4, 0.35], [0.85, 0.55, 0.55], [0.6, 0.42, 0.25], [0.3, 0.18, 0.12]])
    colour = colours[label] + rng.normal(0, 0.06, 3)
    radius = rng.uniform(0.2, 0.4)
    view_rng = np.random.default_rng((seed, label, lesion, view, 1))
    cx, cy = view_rng.uniform(-0.1, 0.1, 2)
    inside = 1 / (1 + np.exp((np.hypot(x - cx, y - cy) - radius) * 40))[..., None]
    image = skin * (1 - inside) + colour * inside + view_rng.normal(0, 0.03, (size, size, 3))
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
