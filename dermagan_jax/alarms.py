"""Signs that a GAN's training goes wrong, read from the rows of its metrics.

Dominance is a sign under the non-saturating loss alone. There a logit's sigmoid is the probability
of "real", and a discriminator grows surer without end, until next to no gradient is left. The hinge
loss pushes real logits no further than 1 and generated ones no further than -1, and the generator's
gradient does not fade beyond; the relativistic loss knows differences of logits only, so that a
logit by itself says nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

import numpy as np

from dermagan_jax.lesions import CLASSES

WINDOW_ROWS = 20
DOMINANT_REAL, DOMINANT_FAKE = 0.9, 0.1
COLLAPSED_DIVERSITY = 0.25
ALL = "all"
_NON_SATURATING = "non_saturating"


def diversity(image: np.ndarray) -> float:
    """Measures how much images differ, blind to noise and checkerboards.

    Args:
      image: [N, S, S, 3] uint8, N at least 2, S a multiple of 8.

    Returns:
      The standard deviation over the images of each cell of an 8x8 average, averaged over the
      cells and channels; in [0, 127.5], 0 where all images are alike.
    """
    count, size, _, channels = image.shape
    cells = image.reshape(count, 8, size // 8, 8, size // 8, channels).mean(axis=(2, 4))
    return float(cells.std(axis=0).mean())


class Alarms:
    """Watches the rows of one run in order and raises each alarm once a class.

    * Dominance: over the last 20 rows the median probability of "real" is above 0.9 for real
      images and below 0.1 for generated ones, so the generator learns next to nothing. Under the
      non-saturating loss alone.
    * Collapse: samples from fixed latents have less than a quarter of the diversity of real
      images.

    A GAN that knows all classes has one discriminator, whose dominance is no class's; it is raised
    for "all".

    Attributes:
      raised: the alarms so far, each with `step`, `class`, `alarm` and `message`.
    """

    def __init__(self, *, per_class: bool = True, loss: str = _NON_SATURATING) -> None:
        """Starts without any row.

        Args:
          per_class: whether each class has a discriminator of its own.
          loss: the run's adversarial loss, a name in `losses.ADVERSARIAL`.
        """
        self.raised: list[dict[str, object]] = []
        watched = CLASSES if per_class else (ALL,)
        self._scores: dict[str, deque[tuple[float, float]]] = {
            name: deque(maxlen=WINDOW_ROWS) for name in (watched if loss == _NON_SATURATING else ())
        }

    def watch(self, step: int, row: Mapping[str, float | None]) -> list[str]:
        """Takes in one row.

        Args:
          step: the row's step.
          row: metrics by name; `train/d_real/CLASS` and `train/d_fake/CLASS` (for "all" without a
            class) and `samples/diversity/CLASS` (as a share of the real images') are read where
            present.

        Returns:
          The messages of the alarms that this row raises.
        """
        messages = []
        for name, scores in self._scores.items():
            suffix = "" if name == ALL else f"/{name}"
            real, fake = row.get(f"train/d_real{suffix}"), row.get(f"train/d_fake{suffix}")
            if real is not None and fake is not None:
                scores.append((real, fake))
                messages += self._dominance(step, name)
        for name in CLASSES:
            share = row.get(f"samples/diversity/{name}")
            if share is not None and not math.isnan(share) and share < COLLAPSED_DIVERSITY:
                message = f"samples have {share:.0%} of the diversity of the real images"
                messages += self._raise(step, name, "collapse", message)
        return messages

    def _dominance(self, step: int, name: str) -> list[str]:
        scores = self._scores[name]
        if len(scores) < WINDOW_ROWS:
            return []
        real, fake = np.median(np.asarray(scores), axis=0)
        if real <= DOMINANT_REAL or fake >= DOMINANT_FAKE:
            return []
        message = f"the discriminator tells real ({real:.2f}) from generated ({fake:.2f}) surely"
        return self._raise(step, name, "dominance", message)

    def _raise(self, step: int, name: str, alarm: str, message: str) -> list[str]:
        if any(each["class"] == name and each["alarm"] == alarm for each in self.raised):
            return []
        self.raised.append({"step": step, "class": name, "alarm": alarm, "message": message})
        return [f"{alarm} at step {step}, {name}: {message}"]
