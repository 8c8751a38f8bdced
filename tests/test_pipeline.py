"""Batches: seeded, resumable, whole, balanced on request."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np
import pytest

from dermagan_jax.data import pipeline
from dermagan_jax.data.pipeline import LabelledImages
from dermagan_jax.errors import DermaganError

COUNTS = (5, 3, 2, 4)


def _images(counts: tuple[int, ...] = COUNTS) -> LabelledImages:
    """Images whose every pixel is the image's number."""
    label = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    image = np.arange(len(label), dtype=np.uint8)[:, None, None, None]
    return LabelledImages(np.broadcast_to(image, (len(label), 8, 8, 3)).copy(), label)


def _numbers(batches: object, count: int) -> list[list[int]]:
    """The numbers of the images in the first batches of the first run."""
    return [batch["image"][0, 0, :, 0, 0, 0].tolist() for batch in islice(batches, count)]


def test_every_epoch_shows_each_image_once_and_no_batch_is_short() -> None:
    batches = _numbers(pipeline.train_batches(_images(), batch_size=4, seeds=[0]), 7)
    assert all(len(batch) == 4 for batch in batches)
    # 7 batches of 4 are two epochs of 14.
    shown = [number for batch in batches for number in batch]
    assert sorted(shown[:14]) == sorted(shown[14:]) == list(range(14))
    assert shown[:14] != shown[14:]


def test_labels_stay_with_their_images() -> None:
    images = _images()
    for batch in islice(pipeline.train_batches(images, batch_size=5, seeds=[3]), 4):
        numbers = batch["image"][..., 0, 0, 0]
        np.testing.assert_array_equal(batch["label"], images.label[numbers])


@pytest.mark.parametrize("start", [1, 3, 4, 50])
def test_a_resumed_run_sees_the_batches_it_would_have(start: int) -> None:
    whole = _numbers(pipeline.train_batches(_images(), batch_size=4, seeds=[1]), start + 3)
    resumed = pipeline.train_batches(_images(), batch_size=4, seeds=[1], start_step=start)
    assert _numbers(resumed, 3) == whole[start:]


def test_a_seed_sees_the_same_batches_whatever_the_others() -> None:
    together = pipeline.train_batches(_images(), batch_size=4, seeds=[3, 1], start_step=2)
    alone = [
        pipeline.train_batches(_images(), batch_size=4, seeds=[seed], start_step=2)
        for seed in (3, 1)
    ]
    for batch, *expected in islice(zip(together, *alone, strict=False), 5):
        assert batch["image"].shape == (1, 2, 4, 8, 8, 3)
        for name in batch:
            parts = [each[name] for each in expected]
            np.testing.assert_array_equal(batch[name], np.concatenate(parts, axis=1))


@pytest.mark.parametrize(
    "make",
    [partial(pipeline.train_batches, seeds=[1]), partial(pipeline.class_batches, seed=1)],
    ids=["train_batches", "class_batches"],
)
def test_super_batches_are_the_same_batches_stacked(make: Callable[..., Iterator]) -> None:
    single = [batch["image"][0] for batch in islice(make(_images(), batch_size=2), 7)]
    stacked = make(_images(), batch_size=2, start_step=1, steps_per_call=3)
    for start, batch in zip((1, 4), stacked, strict=False):
        np.testing.assert_array_equal(batch["image"], np.stack(single[start : start + 3]))


@pytest.mark.parametrize(
    "make",
    [partial(pipeline.train_batches, seeds=[0]), partial(pipeline.class_batches, seed=0)],
)
def test_batches_that_are_gone_hold_no_images(make: Callable[..., Iterator]) -> None:
    images = _images()
    held = weakref.ref(images)
    batches = make(images, batch_size=2)
    next(batches)
    del batches, images
    gc.collect()
    assert held() is None


def test_batches_larger_than_the_set_repeat_it() -> None:
    (batch,) = _numbers(pipeline.train_batches(_images(), batch_size=30, seeds=[0]), 1)
    # 30 of 14: every image twice, and two a third time.
    assert sorted(np.bincount(batch)) == [2] * 12 + [3] * 2


def test_seeds_differ_and_repeat() -> None:
    one, again, other = (
        _numbers(pipeline.train_batches(_images(), batch_size=6, seeds=[seed]), 2)
        for seed in (1, 1, 2)
    )
    assert one == again != other


def test_balanced_epochs_give_every_class_the_share_of_the_largest() -> None:
    label = _images().label
    order = pipeline.epoch_order(label, seed=0, epoch=0, balanced=True)
    np.testing.assert_array_equal(np.bincount(label[order]), [5, 5, 5, 5])
    assert set(order.tolist()) == set(range(14))


def test_class_batches_hold_one_class_a_row_and_resume() -> None:
    images = _images()
    whole = list(islice(pipeline.class_batches(images, batch_size=3, seed=0), 5))
    for batch in whole:
        assert batch["image"].shape == (1, 4, 3, 8, 8, 3)
        numbers = batch["image"][0, ..., 0, 0, 0]
        np.testing.assert_array_equal(images.label[numbers], np.arange(4)[:, None] + np.zeros(3))
    resumed = pipeline.class_batches(images, batch_size=3, seed=0, start_step=2)
    for expected, ours in zip(whole[2:], islice(resumed, 3), strict=True):
        np.testing.assert_array_equal(ours["image"], expected["image"])


def test_a_class_is_shuffled_by_itself() -> None:
    """More images of another class change nothing, as in a run of one class alone."""
    few, many = (_images((5, 3, 2, number)) for number in (4, 9))
    ours, theirs = (
        next(pipeline.class_batches(images, batch_size=4, seed=0))["image"][0, 0]
        for images in (few, many)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_evaluation_sees_each_image_once_in_order() -> None:
    images = _images()
    batches = list(pipeline.eval_batches(images, batch_size=4))
    assert [count for _, count in batches] == [4, 4, 4, 2]
    assert {len(batch["label"]) for batch, _ in batches} == {4}
    seen = np.concatenate([batch["image"][:count, 0, 0, 0] for batch, count in batches])
    np.testing.assert_array_equal(seen, np.arange(14))


def test_joining_counts_and_refusals() -> None:
    joined = _images((1, 1, 1, 1)).joined(_images((0, 0, 0, 2)))
    assert list(joined.counts().values()) == [1, 1, 1, 3]
    small = LabelledImages(np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1, np.int32))
    with pytest.raises(DermaganError, match="8 pixels wide and generated ones 4"):
        joined.joined(small)
    with pytest.raises(ValueError, match="float64"):
        LabelledImages(np.zeros((1, 4, 4, 3)), np.zeros(1, np.int32))
    with pytest.raises(DermaganError, match="basal_cell_carcinoma has no training images"):
        pipeline.class_batches(_images((2, 0, 1, 1)), batch_size=2, seed=0)
    with pytest.raises(DermaganError, match="empty"):
        pipeline.train_batches(_images((0, 0)), batch_size=2, seeds=[0])


@pytest.mark.parametrize("start", [0, 1, 3, 5])
def test_the_first_batches_draw_from_other_images_too(start: int) -> None:
    others = LabelledImages(np.full((6, 8, 8, 3), 200, np.uint8), np.full(6, -1, np.int32))
    batches = partial(pipeline.train_batches, _images(), batch_size=4, seeds=[0], balanced=True)
    mixed = _numbers(batches(others=others, others_steps=3, start_step=start), 8)
    # An epoch of the 20 is 5 batches; 3 of them are drawn from before the 14 come alone.
    whole = _numbers(batches(others=others, others_steps=3), start + 8)
    assert mixed == whole[start:]
    assert sum(number == 200 for batch in whole[:3] for number in batch) > 0
    assert whole[3:] == _numbers(batches(), start + 5)
