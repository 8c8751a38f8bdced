"""A small ISIC 2019 in the download's layout, and the call that prepares it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from dermagan_jax.data.prepare import prepare

COLUMNS = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
CODES = ("AK", "BCC", "BKL", "MEL")


def write_image(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((60, 48)).save(path)


def write_isic2019(folder: Path, *, lesions: int = 14, views: int = 2, nevi: int = 0) -> None:
    """The download's layout: each class `lesions` lesions of `views` images; one image twice.

    Of the nevi, each a lesion of its own, the last is a view of the first class's first lesion.
    """
    pictures = folder / "ISIC_2019_Training_Input"
    pictures.mkdir(parents=True)
    truth, metadata = [], []
    for number in range(4 * lesions * views):
        label, lesion = number // (lesions * views), number // views
        name = f"ISIC_{number:07d}"
        write_image(pictures / f"{name}.png", number)
        truth.append([name, *(float(column == CODES[label]) for column in COLUMNS)])
        metadata.append([name, 55, "torso", f"BCN_{lesion:07d}", "female"])
    # The last melanoma is the first one's file under another id and another lesion.
    first = 3 * lesions * views
    shutil.copy(pictures / f"ISIC_{first:07d}.png", pictures / f"{name}.png")
    for number in range(nevi):
        name = f"ISIC_9{number:06d}"
        write_image(pictures / f"{name}.png", 90_000 + number)
        truth.append([name, *(float(column == "NV") for column in COLUMNS)])
        lesion_id = "BCN_0000000" if number == nevi - 1 else f"HAM_{number:07d}"
        metadata.append([name, 55, "torso", lesion_id, "female"])
    heads = (
        ("image", *COLUMNS),
        ("image", "age_approx", "anatom_site_general", "lesion_id", "gender"),
    )
    tables = zip(("GroundTruth", "Metadata"), heads, (truth, metadata), strict=True)
    for table, head, rows in tables:
        with (folder / f"ISIC_2019_Training_{table}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows])


def run(out: Path, source: str, **choices) -> dict:
    plain = {"plan_changes": {"test_per_class": 6}, "blur_mads": 0, "image_size": 32}
    plain |= {"num_workers": 1, "progress": False}
    return prepare(out, source_texts=[source], **(plain | choices))


def rows_of(folder: Path, name: str = "splits.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))
