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


def phantom_set(per_class: int = PER_CLASS) -> Path:
    """Makes a set of phantoms, or finds it."""
    data_dir = FOLDER / f"phantom_{per_class}"
    prepare(data_dir, source_texts=[f"phantom={per_class}"])
    return data_dir


def class_folders(data_dir: Path) -> Path:
    """Makes PNG files of a set's training split, or finds them."""
    folders = data_dir.with_name(f"{data_dir.name}_png")
    done = folders / ".done"
    if not done.is_file():
        split = prepared.load_split(data_dir, "train")
        for index, (image, label) in enumerate(zip(split.image, split.label, strict=True)):
            folder = folders / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            images.write_png(folder / f"{index:06d}.png", image)
        done.touch()
    return folders
