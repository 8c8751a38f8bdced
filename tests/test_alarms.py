"""Alarms fire where they should, once, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from configs import resgan
from dermagan_jax import gan_runs
from dermagan_jax.alarms import WINDOW_ROWS, Alarms, diversity
from dermagan_jax.data.pipeline import LabelledImages
from dermagan_jax.lesions import CLASSES


def _row(real: float, fake: float, name: str = "melanoma") -> dict[str, float]:
    return {f"train/d_real/{name}": real, f"train/d_fake/{name}": fake}


def test_dominance_needs_a_full_window_and_is_raised_once() -> None:
    alarms = Alarms()
    messages = [alarms.watch(step, _row(0.97, 0.02)) for step in range(WINDOW_ROWS + 5)]
    assert [bool(each) for each in messages].index(True) == WINDOW_ROWS - 1
    assert sum(map(len, messages)) == 1
    (raised,) = alarms.raised
    assert (raised["alarm"], raised["class"]) == ("dominance", "melanoma")
    assert raised["step"] == WINDOW_ROWS - 1


@pytest.mark.parametrize(("real", "fake"), [(0.97, 0.3), (0.6, 0.02), (0.5, 0.5)])
def test_a_balanced_or_half_sure_discriminator_is_no_alarm(real: float, fake: float) -> None:
    alarms = Alarms()
    for step in range(2 * WINDOW_ROWS):
        assert alarms.watch(step, _row(real, fake)) == []


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
def test_logits_of_other_losses_say_nothing_of_dominance(loss: str) -> None:
    alarms = Alarms(loss=loss)
    for step in range(2 * WINDOW_ROWS):
        assert alarms.watch(step, _row(0.97, 0.02)) == []
    # Collapse is one whatever the loss.
    (message,) = alarms.watch(200, {f"samples/diversity/{CLASSES[1]}": 0.1})
    assert message.startswith("collapse at step 200")


@pytest.mark.parametrize(("loss", "watched"), [("hinge", False), ("non_saturating", True)])
def test_a_run_watches_for_dominance_by_its_loss(loss: str, watched: bool) -> None:
    config = resgan.get_config("smoke")
    config.loss = loss
    real = LabelledImages(np.zeros((8, 64, 64, 3), np.uint8), np.arange(8, dtype=np.int32) % 4)
    alarms = gan_runs.Run(config, real).alarms
    for step in range(WINDOW_ROWS):
        alarms.watch(step, {"train/d_real": 0.97, "train/d_fake": 0.02})
    assert bool(alarms.raised) == watched


def test_a_discriminator_of_all_classes_is_dominant_in_none() -> None:
    alarms = Alarms(per_class=False)
    for step in range(WINDOW_ROWS):
        alarms.watch(step, {"train/d_real": 0.97, "train/d_fake": 0.02})
    assert [each["class"] for each in alarms.raised] == ["all"]


def test_single_sure_rows_are_no_alarm() -> None:
    alarms = Alarms()
    for step in range(3 * WINDOW_ROWS):
        alarms.watch(step, _row(0.97, 0.02) if step % 3 == 0 else _row(0.6, 0.4))
    assert alarms.raised == []


def test_collapse_names_the_class() -> None:
    alarms = Alarms()
    assert alarms.watch(100, {f"samples/diversity/{name}": 0.6 for name in CLASSES}) == []
    (message,) = alarms.watch(200, {f"samples/diversity/{CLASSES[1]}": 0.1})
    assert message.startswith("collapse at step 200, basal_cell_carcinoma")
    assert "10%" in message


def test_diversity_by_hand() -> None:
    alike = np.full((5, 16, 16, 3), 80, np.uint8)
    assert diversity(alike) == 0
    # Half black and half white: a standard deviation of 127.5 in every cell.
    halves = np.zeros((4, 16, 16, 3), np.uint8)
    halves[:2] = 255
    assert diversity(halves) == pytest.approx(127.5)
    # A checkerboard of single pixels averages out within each cell.
    board = np.indices((16, 16)).sum(0) % 2 * np.uint8(255)
    boards = np.stack([board, 255 - board])[..., None].repeat(3, -1).astype(np.uint8)
    assert diversity(boards) == 0
