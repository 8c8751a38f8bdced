"""The pictures of a study: its images, how its classifiers trained, and where they look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import special

from dermagan_jax import explaining, figures, images
from dermagan_jax.data import prepared
from dermagan_jax.lesions import CLASSES
from dermagan_jax.study.arms import Arm
from dermagan_jax.study.report import Cell, Figure, Section, Table
from dermagan_jax.study.runner import Runner

_SEED = 0  # Of the choice of images.
_COLUMNS = 8
_SCALE = 2


def sections(runner: Runner, shown: Sequence[Arm], folder: Path) -> list[Section]:
    """Draws the pictures of a finished study.

    Args:
      runner: of the study.
      shown: the arms to show, the reference first.
      folder: for the PNG files; must exist.
    """
    drawer = _Drawer(runner, shown, folder)
    return [drawer.images_section(), drawer.curves_section(), drawer.attention_section()]


class _Drawer:
    """What the pictures of one study share."""

    def __init__(self, runner: Runner, shown: Sequence[Arm], folder: Path) -> None:
        self.runner = runner
        self.shown = shown
        self.folder = folder
        self.phantom = runner.opened.report["kind"] == "phantom"
        self.rng = np.random.default_rng(_SEED)

    def images_section(self) -> Section:
        """Lays real training images and generated ones of each arm side by side."""
        train = self.runner.opened.train
        drawn = [self._classes_grid("real", train.image, train.label, "Real training images.")]
        for arm in self.shown:
            made = self.runner.generated(arm)
            if made:
                caption = f"Generated images of {arm.name}, of the first GAN."
                drawn.append(
                    self._classes_grid(_file(arm.name), made[0].image, made[0].label, caption)
                )
        rows = ", ".join(name.replace("_", " ") for name in CLASSES)
        return Section(
            "Images", f"A random choice, a class a row, from above: {rows}.", figures=drawn
        )

    def _classes_grid(
        self, name: str, image: np.ndarray, label: np.ndarray, caption: str
    ) -> Figure:
        """Draws a row of each class; a class with fewer images ends in blank ones."""
        cells = np.full((len(CLASSES), _COLUMNS, *image.shape[1:]), 255, np.uint8)
        for index in range(len(CLASSES)):
            members = np.flatnonzero(label == index)
            chosen = self.rng.permutation(members)[:_COLUMNS]
            cells[index, : len(chosen)] = image[chosen]
        return self._grid(f"images_{name}", cells.reshape(-1, *image.shape[1:]), caption)

    def _grid(self, name: str, image: np.ndarray, caption: str) -> Figure:
        path = self.folder / f"{name}.png"
        enlarged = image.repeat(_SCALE, axis=1).repeat(_SCALE, axis=2)
        images.write_png(path, images.grid(enlarged, _COLUMNS, phantom=self.phantom))
        return Figure(path, caption, caption)

    def curves_section(self) -> Section:
        """Draws loss and accuracy by step."""
        rows = {arm.name: self.runner.first_curves(arm) for arm in self.shown}
        drawn = []
        for measure in ("loss", "accuracy"):
            series = {}
            for name, points in rows.items():
                for split, what in (("train", "training"), ("validation", "validation")):
                    key = f"{split}/{measure}"
                    known = [(row["step"], row[key]) for row in points if key in row]
                    steps, values = [step for step, _ in known], [value for _, value in known]
                    series[f"{name}, {what}"] = (steps, values)
            path = figures.curves(
                series,
                self.folder / f"curve_{measure}.png",
                ylabel=measure,
                title=f"{measure.capitalize()} by step",
                phantom=self.phantom,
            )
            caption = f"{measure.capitalize()} of the first seeds, by training step."
            drawn.append(Figure(path, caption, f"{caption} Arms: {', '.join(rows)}."))
        return Section(
            "Training",
            "Training images are augmented and, but for the reference's, partly generated, so that "
            "the two kinds of curve are of different images.",
            figures=drawn,
        )

    def attention_section(self) -> Section:
        """Shows test images that the reference gets right and wrong, and where classifiers look."""
        test = prepared.load_split(self.runner.opened.folder, "test")
        logits = {arm.name: self.runner.logits(arm, "test")[0, 0] for arm in self.shown}
        right = logits[self.shown[0].name].argmax(axis=1) == test.label
        drawn, rows = [], []
        for is_right, what in ((True, "right"), (False, "wrong")):
            members = np.flatnonzero(right == is_right)
            if not len(members):
                continue
            chosen = self.rng.permutation(members)[:_COLUMNS]
            drawn.append(self._heat_grid(what, test.take(chosen), logits, chosen))
            rows += [_answers(test, logits, index, what) for index in chosen]
        columns = ["image", "class", f"{self.shown[0].name} is"]
        columns += [f"{name} says" for name in logits]
        return Section(
            "Where the classifiers look",
            "Grad-CAM of the first seeds for the class that each predicts: yellow is what speaks "
            "for it most. It shows where a classifier looks, and not whether it is right to.",
            tables=[Table("The images below, from left to right", columns, rows)],
            figures=drawn,
        )

    def _heat_grid(
        self,
        what: str,
        sample: prepared.Split,
        logits: Mapping[str, np.ndarray],
        chosen: np.ndarray,
    ) -> Figure:
        blank = np.full_like(sample.image[:1], 255).repeat(_COLUMNS - len(chosen), axis=0)
        rows = [sample.image, blank]
        for arm in self.shown:
            label = logits[arm.name][chosen].argmax(axis=1).astype(np.int32)
            trained = self.runner.first_classifier(arm)
            heat = explaining.grad_cam(trained, sample.image, label)
            pairs = zip(sample.image, heat, strict=True)
            rows += [np.stack([explaining.overlay(*pair) for pair in pairs]), blank]
        names = ", ".join(arm.name for arm in self.shown)
        caption = (
            f"Test images that {self.shown[0].name} gets {what}; below, where these look: {names}."
        )
        return self._grid(f"attention_{what}", np.concatenate(rows), caption)


def _answers(
    test: prepared.Split, logits: Mapping[str, np.ndarray], index: int, what: str
) -> list[Cell]:
    said = []
    for each in logits.values():
        probability = special.softmax(each[index].astype(np.float64))
        label = int(probability.argmax())
        said.append(f"{CLASSES[label].replace('_', ' ')}, {probability[label]:.0%}")
    name = CLASSES[test.label[index]].replace("_", " ")
    return [str(test.image_id[index]), name, what, *said]


def _file(arm_name: str) -> str:
    return arm_name.replace(" ", "_")
