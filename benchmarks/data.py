"""The set that the benchmarks read: phantoms, prepared once, and the same images as PNG files."""

from __future__ import annotations

from pathlib import Path

from benchmarks.turns import ROOT
from dermagan_jax import images
from dermagan_jax.data import prepared
from dermagan_jax.data.prepare import prepare
from dermagan_jax.lesions import CLASSES

FOLDER = ROOT / "runs" / "bench"
PER_CLASS = 512


def phantom_set() -> tuple[Path, Path]:
    """Makes what is missing; returns the set, and the class folders of its training split."""
    data_dir = FOLDER / f"phantom_{PER_CLASS}"
    prepare(data_dir, source_texts=[f"phantom={PER_CLASS}"])
    class_folders = FOLDER / f"phantom_{PER_CLASS}_png"
    done = class_folders / ".done"
    if not done.is_file():
        split = prepared.load_split(data_dir, "train")
        for index, (image, label) in enumerate(zip(split.image, split.label, strict=True)):
            folder = class_folders / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            images.write_png(folder / f"{index:06d}.png", image)
        done.touch()
    return data_dir, class_folders
