"""What `dermagan evaluate` refuses, and what an interrupted call leaves."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
from pixel_features import PIXELS, evaluate

from dermagan_jax.data import prepared
from dermagan_jax.data.prepare import prepare
from dermagan_jax.errors import DermaganError, LeakError
from dermagan_jax.study import evaluation


@pytest.fixture(autouse=True)
def pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "find_extractor", lambda text: PIXELS)


def test_bad_input_is_named_before_anything_is_written(tiny_gan, phantom_set, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DermaganError, match="has no checkpoint of step 9"):
        evaluate(tiny_gan, phantom_set, out, step=9)
    with pytest.raises(DermaganError, match=r"--per-class 99: give 1 to \d+, the training images"):
        evaluate(tiny_gan, phantom_set, out, per_class=99)
    with pytest.raises(DermaganError, match="holds no checkpoints"):
        evaluate(tmp_path, phantom_set, out)
    with pytest.raises(DermaganError, match="is no prepared set"):
        evaluate(tiny_gan, tmp_path, out)
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("keep")
    with pytest.raises(DermaganError, match="is no evaluation; name another --out"):
        evaluate(tiny_gan, phantom_set, out)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_what_was_interrupted_can_be_run_again(tiny_gan, phantom_set, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "_Comparison", mock.Mock(side_effect=KeyboardInterrupt))
    for _ in range(2):  # The second is not taken for a stranger to what the first has left.
        with pytest.raises(KeyboardInterrupt):
            evaluate(tiny_gan, phantom_set, tmp_path / "out")


def test_another_training_split_is_refused(tiny_gan, phantom_set, tmp_path, monkeypatch):
    other = tmp_path / "other"
    changes = {"test_per_class": 4}
    prepare(other, source_texts=["phantom=20"], plan_changes=changes, num_workers=1, progress=False)
    with pytest.raises(LeakError, match="run: was trained on another training split"):
        evaluate(tiny_gan, other, tmp_path / "out")
    knowing = dataclasses.replace(PIXELS, train_split_sha256="0" * 64)
    monkeypatch.setattr(evaluation, "find_extractor", lambda text: knowing)
    with pytest.raises(LeakError, match="--features pixels: was trained on another"):
        evaluate(tiny_gan, phantom_set, tmp_path / "out")


def test_a_set_whose_splits_share_lesions_is_refused(tiny_gan, phantom_set, tmp_path, monkeypatch):
    leaky = {**prepared.load_report(phantom_set), "leaky": True}
    monkeypatch.setattr(prepared, "load_report", lambda folder: leaky)
    with pytest.raises(LeakError, match="share lesions on purpose"):
        evaluate(tiny_gan, phantom_set, tmp_path / "out")
