"""What a trained classifier says of image files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from scipy import special

from dermagan_jax import explaining, images
from dermagan_jax.data.pipeline import LabelledImages, eval_batches
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.trained_classifier import TrainedClassifier

BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What is said of one image.

    Attributes:
      path: its file.
      image: [S, S, 3] uint8, as the classifier saw it.
      probabilities: [K] float64, calibrated on the validation split of the classifier's data.
    """

    path: Path
    image: np.ndarray
    probabilities: np.ndarray

    @property
    def label(self) -> int:
        """The class of the highest probability."""
        return int(self.probabilities.argmax())

    def as_json(self) -> dict[str, object]:
        """Returns the file, the class and the probabilities as JSON types."""
        named = zip(CLASSES, self.probabilities.tolist(), strict=True)
        return {
            "file": str(self.path),
            "class": CLASSES[self.label],
            "probabilities": dict(named),
        }


def predict_images(trained: TrainedClassifier, image: np.ndarray) -> np.ndarray:
    """Classifies [N, S, S, 3] uint8 images of the classifier's size: [N, K] float64 logits."""
    classify = jax.jit(lambda image: trained.model.apply(trained.variables, image, train=False))
    found = []
    unlabelled = LabelledImages(image, np.zeros(len(image), np.int32))
    for batch, count in eval_batches(unlabelled, batch_size=BATCH_SIZE):
        logits = classify(images.to_float(batch["image"]))
        found.append(np.asarray(logits, np.float64)[:count])
    return np.concatenate(found)


def predict(trained: TrainedClassifier, paths: Sequence[Path]) -> list[Prediction]:
    """Classifies image files.

    Args:
      trained: the classifier.
      paths: JPEG, PNG, WebP, BMP or TIFF files.

    Raises:
      DermaganError: a file cannot be read, or the classifier's run did not end.
    """
    if trained.temperature is None:
        raise DermaganError(
            "the classifier's run did not end, so its probabilities are not calibrated; run "
            "train_classifier.py on its workdir again"
        )
    seen = [images.resize_crop(images.read(path), trained.image_size) for path in paths]
    logits = predict_images(trained, np.stack(seen))
    found = special.softmax(logits / trained.temperature, axis=1)
    return [Prediction(*each) for each in zip(paths, seen, found, strict=True)]


def claim_folder(out: Path) -> None:
    """Makes the folder for `write_explanations`, before anything is computed for it.

    Raises:
      DermaganError: it is a file, or cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DermaganError(
            f"{out}: cannot be a folder ({error.strerror}); name another --explain"
        ) from error


def write_explanations(
    trained: TrainedClassifier, predictions: Sequence[Prediction], out: Path
) -> list[Path]:
    """Writes for each image where the classifier looks for its class: the image, and the overlay.

    Args:
      trained: the classifier.
      predictions: from `predict`.
      out: folder for `0001_NAME.png` and so on; made if it is not there.

    Returns:
      The files, in the order of the predictions.

    Raises:
      DermaganError: a file cannot be written.
    """
    claim_folder(out)
    image = np.stack([each.image for each in predictions])
    label = np.array([each.label for each in predictions], np.int32)
    heat = explaining.grad_cam(trained, image, label)
    written = []
    for number, (each, warmth) in enumerate(zip(predictions, heat, strict=True), 1):
        path = out / f"{number:04d}_{each.path.stem}.png"
        pair = np.stack([each.image, explaining.overlay(each.image, warmth)])
        images.write_png(path, images.grid(pair, columns=2))
        written.append(path)
    return written
