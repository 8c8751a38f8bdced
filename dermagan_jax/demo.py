"""The whole way on phantoms: prepare, train a GAN, generate, compare classifiers, report."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from configs import lesion_cnn, resgan
from dermagan_jax import (
    classifier_trainer,
    console,
    figures,
    files,
    gan_trainer,
    generated_images,
    images,
    synthesis,
)
from dermagan_jax.data import prepared
from dermagan_jax.data.prepare import prepare
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES, NUM_CLASSES
from dermagan_jax.study.report import Figure, Section, Table, write_report
from dermagan_jax.writers import METRICS_FILE, read_metrics

ARMS = ("real images", "real and generated images")
_FOLDERS = {ARMS[0]: "cnn_real", ARMS[1]: "cnn_real_and_generated"}
_REPORT = "report.html"
# What a demo's folder holds; anything else is not ours to write beside.
_OURS = frozenset({"data", "gan", "generated", "figures", _REPORT, *_FOLDERS.values()})


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much the demo does.

    Attributes:
      phantoms_per_class: images of each class.
      test_per_class: of those, test images.
      generated_per_class: images that the GAN adds to each class.
      variant: the variant of both configurations.
    """

    phantoms_per_class: int
    test_per_class: int
    generated_per_class: int
    variant: str


FULL = Scale(phantoms_per_class=400, test_per_class=100, generated_per_class=100, variant="demo")
SHORT = Scale(phantoms_per_class=60, test_per_class=15, generated_per_class=20, variant="smoke")


def run(out: Path, *, seed: int, short: bool) -> Path:
    """Runs the demo, or goes on where an earlier call was stopped.

    Args:
      out: the folder to write; `data`, `gan`, `generated`, `cnn_*` and `report.html` go there.
      seed: of the phantoms, the splits, the networks and the latents.
      short: only enough steps to see that everything runs.

    Returns:
      The report's path.

    Raises:
      DermaganError: when `out` holds something else or cannot be written.
    """
    _claim(out)
    scale = SHORT if short else FULL
    report = _timed("1/5 prepare phantoms", lambda: _prepare(out, scale, seed))
    gan_summary = _timed("2/5 train a GAN for all classes", lambda: _train_gan(out, scale, seed))
    generated = _timed("3/5 generate", lambda: _generate(out, scale, seed))
    summaries = []
    for number, arm in enumerate(ARMS, 4):
        train = functools.partial(_train_cnn, out, scale, seed, arm)
        summaries.append(_timed(f"{number}/5 train the CNN on {arm}", train))
    (out / "figures").mkdir(exist_ok=True)
    header, rows = _comparison(summaries)
    print(console.table(header, rows))
    path = out / _REPORT
    write_report(
        path,
        title="DermaGAN demo: do generated phantoms help?",
        notice=console.notice("phantom"),
        sections=[
            _answer_section(header, rows, summaries),
            _data_section(out, report, generated),
            _gan_section(out, gan_summary, generated),
            *(_arm_section(out, arm, each) for arm, each in zip(ARMS, summaries, strict=True)),
        ],
        commands=[f"dermagan demo --seed {seed}{' --short' if short else ''}"],
    )
    print(f"Report: {path}\n{console.notice('phantom')}")
    return path


def _timed(title: str, work: Callable[[], Any]) -> Any:
    print(f"== {title}", flush=True)
    start = time.monotonic()
    result = work()
    print(f"   {time.monotonic() - start:.0f} s", flush=True)
    return result


def _claim(out: Path) -> None:
    """Refuses a folder that holds what no demo wrote, such as another report."""
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    others = sorted(name for name in names - _OURS if not files.is_partial(name))
    if others:
        raise DermaganError(f"{out}: holds {others[0]}, which is no demo's; name another --out")


def _prepare(out: Path, scale: Scale, seed: int) -> dict[str, Any]:
    return prepare(
        out / "data",
        source_texts=[f"phantom={scale.phantoms_per_class}"],
        plan_changes={"test_per_class": scale.test_per_class},
        seed=seed,
    )


def _train_gan(out: Path, scale: Scale, seed: int) -> dict[str, Any]:
    config = resgan.get_config(scale.variant)
    _set_data(config, out, seed)
    return gan_trainer.train(config, out / "gan")


def _generate(out: Path, scale: Scale, seed: int) -> generated_images.Generated:
    trained = synthesis.load_gan(out / "gan")
    generated = synthesis.generate(trained, per_class=scale.generated_per_class, seed=seed)
    generated_images.write_folder(generated, out / "generated")
    return generated


def _train_cnn(out: Path, scale: Scale, seed: int, arm: str) -> dict[str, Any]:
    config = lesion_cnn.get_config(scale.variant)
    _set_data(config, out, seed)
    if arm == ARMS[1]:
        config.synthetic.gan_workdir = str(out / "gan")
        config.synthetic.per_class = scale.generated_per_class
        config.synthetic.seed = seed
    return classifier_trainer.train(config, _arm_folder(out, arm))


def _set_data(config: ConfigDict, out: Path, seed: int) -> None:
    config.data_dir = str(out / "data")
    config.seed = seed


def _arm_folder(out: Path, arm: str) -> Path:
    return out / _FOLDERS[arm]


def _comparison(summaries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = ["trained on", "real", "generated", "steps", "accuracy", "balanced", "loss"]
    rows = [
        [
            arm,
            f"{summary['num_train_real']:,}",
            f"{summary['num_train_generated']:,}",
            f"{summary['num_steps']:,}",
            console.percent(summary["test"]["accuracy"]),
            console.percent(summary["test"]["balanced_accuracy"]),
            f"{summary['test']['loss']:.3f}",
        ]
        for arm, summary in zip(ARMS, summaries, strict=True)
    ]
    return header, rows


def _answer_section(
    header: list[str], rows: list[list[str]], summaries: Sequence[Mapping[str, Any]]
) -> Section:
    first, second = (summary["test"]["accuracy"] for summary in summaries)
    number = summaries[0]["test"]["n"]
    return Section(
        "With and without generated images",
        f"On the {number} test phantoms the CNN reaches {first:.1%} trained on real phantoms and "
        f"{second:.1%} with generated ones added, at equal steps.\n\n"
        "One seed each: a difference of a few points is chance. The demo shows that the whole way "
        "works, not that generated images help.",
        tables=[Table("Test split, read once", header, rows)],
    )


def _data_section(
    out: Path, report: Mapping[str, Any], generated: generated_images.Generated
) -> Section:
    counts = {name: int((generated.label == label).sum()) for label, name in enumerate(CLASSES)}
    bars = figures.split_counts(
        report["counts"],
        out / "figures" / "split_counts.png",
        generated=counts,
        title="Images by split",
        phantom=True,
    )
    doughnut = out / "data" / "figures" / "class_counts.png"
    return Section(
        "Data",
        "Procedural phantoms, split by lesion: no lesion has images in two splits, and the audit "
        "has checked it.",
        figures=[
            Figure(doughnut, "Images of each class", "Doughnut of the images of each class"),
            Figure(bars, "Images by split", "Bars of real and generated images in each split"),
        ],
    )


def _gan_section(
    out: Path, summary: Mapping[str, Any], generated: generated_images.Generated
) -> Section:
    rows = [row for row in read_metrics(out / "gan" / METRICS_FILE) if "train/d_loss" in row]
    steps = [row["step"] for row in rows]
    series = {
        label: (steps, [row[name] for row in rows])
        for name, label in (("train/d_loss", "discriminator"), ("train/g_loss", "generator"))
    }
    losses = figures.curves(
        series, out / "figures" / "gan_loss.png", ylabel="loss", title="GAN losses", phantom=True
    )
    alarms = [
        f"{each['alarm']} ({each['class']}, step {each['step']})" for each in summary["alarms"]
    ]
    return Section(
        "The GAN",
        f"One network for all classes, {summary['num_steps']:,} steps of "
        f"{1000 * summary['kimg'] / summary['num_steps']:.0f} images. "
        f"Alarms: {', '.join(alarms) or 'none'}.",
        figures=[
            Figure(_real_grid(out), "Real phantoms, a row a class", "Grid of phantoms"),
            Figure(
                images.encode_png(generated_images.class_grid(generated)),
                "Generated, a row a class",
                "Grid of generated phantoms",
            ),
            Figure(losses, "Losses by step", "Curves of both losses"),
        ],
    )


def _real_grid(out: Path) -> bytes:
    split = prepared.load_split(out / "data", "train")
    rows = [
        split.image[split.label == label][: generated_images.GRID_COLUMNS]
        for label in range(NUM_CLASSES)
    ]
    return images.encode_png(
        images.grid(np.concatenate(rows), generated_images.GRID_COLUMNS, phantom=True)
    )


def _arm_section(out: Path, arm: str, summary: Mapping[str, Any]) -> Section:
    folder = _arm_folder(out, arm) / "figures"
    per_class = summary["test"]["per_class"]
    columns = ["sensitivity", "specificity", "precision", "auc"]
    rows = [[name, *(per_class[name][column] for column in columns)] for name in CLASSES]
    return Section(
        f"CNN trained on {arm}",
        f"Best validation loss at step {summary['best_step']:,}.",
        tables=[Table("Each class against the rest, test split", ["class", *columns], rows)],
        figures=[
            Figure(
                folder / "confusion_matrix_test.png",
                "Confusion matrix, test split",
                f"Confusion matrix: accuracy {summary['test']['accuracy']:.1%}",
            ),
            Figure(folder / "loss.png", "Loss by step", "Training and validation loss"),
            Figure(folder / "accuracy.png", "Accuracy by step", "Training and validation accuracy"),
        ],
    )
