"""The prepared set as TensorFlow Datasets reads it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dermagan_jax.data import dermoscopy
from dermagan_jax.data.prepare import prepare
from dermagan_jax.lesions import CLASSES


def test_tfds_reads_the_set(phantom_set: Path) -> None:
    builder = tfds.builder_from_directory(str(phantom_set / "dermoscopy" / "1.0.0"))
    assert set(builder.info.splits) == {"train", "validation", "test"}
    assert builder.info.features["label"].names == list(CLASSES)
    examples = list(tfds.as_numpy(builder.as_dataset(split="test")))
    assert len(examples) == 20
    assert examples[0]["image"].shape == (64, 64, 3)
    ours = dermoscopy.read(phantom_set, "test")
    theirs = {example["image_id"].decode(): example["image"] for example in examples}
    for name, image in zip(ours["image_id"], ours["image"], strict=True):
        np.testing.assert_array_equal(theirs[str(name)], image)
    assert ours["image_id"].tolist() == sorted(theirs)


def test_nothing_is_written_outside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, home = tmp_path / "temporary", tmp_path / "home"
    for folder in (temporary, home):
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("HOME", str(home))
    prepare(
        tmp_path / "set",
        source_texts=["phantom=12"],
        plan_changes={"test_per_class": 2},
        num_workers=1,
        progress=False,
    )
    assert list(temporary.iterdir()) == []
    assert list(home.iterdir()) == []
    assert not (tmp_path / "set" / ".scan").exists()
    assert not (tmp_path / "set" / "dermoscopy" / "downloads").exists()
