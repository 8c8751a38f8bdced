"""The GANs of docs/results.md: trains each on a prepared set, measures it once, writes the tables.

    python -m benchmarks.gans --data=data/bcn500 --out=runs/gans [--only=default] [--seeds=0:5]

Runs that are finished are not made again, and one that was stopped goes on. A row of the document
stays as it is where --out holds fewer seeds of it. The checkpoint that a run's watch chose on the
validation split is measured on the test split; that of an ablation, which is shorter, is not: there
the watch's own figures stand. Hours on 2 cores: half an hour for a run of the default, an hour for
one of the paper's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import tables, turns
from dermagan_jax import seeds
from dermagan_jax.alarms import COLLAPSED_DIVERSITY
from dermagan_jax.writers import METRICS_FILE, read_metrics

DOCUMENT = turns.ROOT / "docs" / "results.md"
KIMG, ABLATION_KIMG = 200.0, 49.152
WATCH_EVERY_KIMG = 16.384
TABLES = ("gans", "ablations")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What one row of a table trains.

    Attributes:
      title: the row's first cell.
      config: the configuration, in `configs/`.
      fields: what of it is set otherwise.
      images_a_step: real images of all classes that one step sees.
    """

    title: str
    config: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    images_a_step: int = 32


GANS = {
    "notebook": Recipe("the paper's DCGAN, a GAN a class", "dcgan.py:notebook", {}, 64),
    "dcgan_diffaugment": Recipe(
        "the same with DiffAugment",
        "dcgan.py:notebook",
        {"augment": "color,translation,cutout"},
        64,
    ),
    "default": Recipe("`resgan`, the default: one GAN that knows the class", "resgan.py"),
    "transitional": Recipe(
        "the same, the class from 25 to 75 kimg on", "resgan.py", {"conditioning": "transitional"}
    ),
    "no_augmentation": Recipe("the same, no augmentation", "resgan.py", {"augment": "none"}),
    "per_class": Recipe("the same, a GAN a class", "resgan.py", {"conditioning": "per_class"}, 128),
}
ABLATIONS = {
    "default": Recipe("the default", "resgan.py"),
    "no_augmentation": Recipe("no augmentation", "resgan.py", {"augment": "none"}),
    "zoom_alone": Recipe("zoom alone", "resgan.py", {"augment": "zoom"}),
    "no_zoom": Recipe("no zoom", "resgan.py", {"augment": "color,translation,cutout"}),
    "ada": Recipe("ADA in place of DiffAugment", "resgan.py", {"augment": "ada"}),
    "no_ema": Recipe("no moving average", "resgan.py", {"ema_half_life_kimg": 0.0}),
    "non_saturating": Recipe("non-saturating loss", "resgan.py", {"loss": "non_saturating"}),
    "relativistic": Recipe(
        "relativistic loss, R1 and R2", "resgan.py", {"loss": "relativistic", "r1": 0.1, "r2": 0.1}
    ),
    "residual": Recipe("a discriminator that knows nothing at first", "resgan.py:residual"),
    "residual_no_penalty": Recipe("that, without R1", "resgan.py:residual", {"r1": 0.0}),
    "residual_batch_norm": Recipe(
        "that, with BatchNorm", "resgan.py:residual", {"model.d_batch_norm": True}
    ),
    "dcgan_diffaugment": dataclasses.replace(
        GANS["dcgan_diffaugment"], title="the paper's DCGAN with DiffAugment, a GAN a class"
    ),
}


def _train(recipe: Recipe, seed: int, kimg: float, data: Path, folder: Path) -> None:
    every = max(1, round(1000 * WATCH_EVERY_KIMG / recipe.images_a_step))
    fields = {
        "data_dir": data,
        "seed": seed,
        "total_kimg": kimg,
        "num_steps": 0,
        "checkpoint_every_steps": every,
        "watch.features": "efficientnet_lite0",
        **recipe.fields,
    }
    command = [sys.executable, str(turns.ROOT / "train_gan.py"), f"--workdir={folder}"]
    command += [f"--config={turns.ROOT}/configs/{recipe.config}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    subprocess.run(command, check=True)


def _summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def _evaluated(folder: Path, data: Path) -> dict[str, Any]:
    """Measures the checkpoint that the watch chose on the test split, once."""
    out = folder.with_name(f"{folder.name}_test")
    result = out / "evaluation.json"
    if not result.is_file():
        step = _summary(folder)["watch"]["best_step"]
        command = [sys.executable, "-m", "dermagan_jax", "evaluate", f"--gan={folder}"]
        command += [f"--data={data}", f"--out={out}", "--split=test", f"--step={step}"]
        subprocess.run(command, check=True)
    return json.loads(result.read_text())


def _of_gan(folder: Path, data: Path) -> dict[str, float]:
    document = _evaluated(folder, data)
    (found,) = document["checkpoints"]
    generative, floor = found["generative"], document["floor"]
    accuracy = generative["overall"]["classification_accuracy"]["value"]
    return {
        "KID": generative["mean_class_kid"],
        "coverage": generative["overall"]["coverage"]["value"],
        "precision": generative["overall"]["precision"]["value"],
        "accuracy": accuracy,
        "share of real": accuracy / floor["overall"]["classification_accuracy"]["value"],
        "membership AUC": found["memorization"]["overall"]["membership_auc"]["value"],
        "copies": found["exact_copies"]["training"],
        "collapsed classes": sum(
            share < COLLAPSED_DIVERSITY for share in _diversity(folder, found["step"])
        ),
    }


def _diversity(folder: Path, step: int) -> list[float]:
    """Reads the diversity of a checkpoint's samples, class by class, as a share of real images'."""
    return [
        value
        for row in read_metrics(folder / METRICS_FILE)
        if row["step"] == step
        for name, value in row.items()
        if name.startswith("samples/diversity/")
    ]


def _of_ablation(folder: Path, images_a_step: int) -> dict[str, float] | None:
    """Reads what a run's watch said at the ablations' budget; None where it did not get so far."""
    step = round(1000 * ABLATION_KIMG / images_a_step)
    for row in read_metrics(folder / METRICS_FILE):
        if row["step"] == step and "validation/kid" in row:
            return {
                "KID": row["validation/kid"],
                "coverage": row["validation/coverage"],
                "accuracy": row["validation/classification_accuracy"],
                "diversity": mean(_diversity(folder, step)),
            }
    return None


def _cell(values: Sequence[float]) -> str:
    if all(isinstance(value, int) for value in values):
        return ", ".join(map(str, values))
    # A KID near its floor has its figures further down.
    digits = 3 if max(map(abs, values)) < 0.1 else 2
    spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def _table(rows: Mapping[str, list[dict[str, float]]], shown: str = "") -> str:
    """Writes the rows of what was run.

    Args:
      rows: the figures of each seed by the row's title, in order; none where nothing was run.
      shown: the table so far, whose rows of more seeds stay.
    """
    standing = {line.split(" | ")[0].removeprefix("| "): line for line in shown.splitlines()[2:]}
    names = next(list(runs[0]) for runs in rows.values() if runs)
    lines = [f"| | seeds | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for title, runs in rows.items():
        earlier = standing.get(title, "")
        if earlier and int(earlier.split(" | ")[1]) > len(runs):
            lines.append(earlier)
        elif runs:
            cells = [_cell([run[name] for run in runs]) for name in names]
            lines.append(f"| {title} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _finished(folder: Path, name: str) -> Iterator[Path]:
    """Yields the workdirs of a recipe's seeds that came to their end."""
    for path in sorted(folder.glob(f"{name}_seed[0-9]")):
        if (path / "summary.json").is_file():
            yield path


def write_tables(data: Path, out: Path) -> None:
    """Puts what is finished into docs/results.md."""
    gans = {
        recipe.title: [_of_gan(path, data) for path in _finished(out / "gans", name)]
        for name, recipe in GANS.items()
    }
    ablations: dict[str, list[dict[str, float]]] = {}
    for name, recipe in ABLATIONS.items():
        # A longer run passes the ablations' budget on its way.
        paths = [out / kind / f"{name}_seed0" for kind in ("ablations", "gans")]
        found = [_of_ablation(path, recipe.images_a_step) for path in paths]
        ablations[recipe.title] = [each for each in found if each][:1]
    for name, rows in zip(TABLES, (gans, ablations), strict=True):
        if any(rows.values()):
            begin, end = f"<!-- {name}: python -m benchmarks.gans -->", f"<!-- end of {name} -->"
            content = _table(rows, tables.shown(DOCUMENT, begin, end))
            tables.put(DOCUMENT, begin, content, end)


def main() -> None:
    """Trains what is missing, and writes the tables after each run."""
    summary, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gans", description=summary)
    parser.add_argument("--data", type=Path, required=True, help="the prepared set bcn500")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--only", default="", help="only rows of this name")
    parser.add_argument("--seeds", default="0:1", help="FIRST:END, of the GANs (0:1)")
    parser.add_argument("--ablations", action="store_true", help="the ablations, seed 0")
    flags = parser.parse_args()
    if flags.ablations:
        jobs = [(name, recipe, 0) for name, recipe in ABLATIONS.items() if name != "default"]
    else:
        jobs = [(*row, seed) for seed in seeds.parse(flags.seeds) for row in GANS.items()]
    place = flags.out / ("ablations" if flags.ablations else "gans")
    place.mkdir(parents=True, exist_ok=True)
    for name, recipe, seed in jobs:
        if flags.only in ("", name):
            kimg = ABLATION_KIMG if flags.ablations else KIMG
            _train(recipe, seed, kimg, flags.data, place / f"{name}_seed{seed}")
            write_tables(flags.data, flags.out)
    write_tables(flags.data, flags.out)


if __name__ == "__main__":
    main()
