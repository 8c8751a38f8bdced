"""Starting from the weights of another GAN, and refusing one that saw the tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import resgan
from dermagan_jax import gan_trainer
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.data import prepared
from dermagan_jax.data.prepare import prepare
from dermagan_jax.errors import DermaganError, LeakError


@pytest.fixture(scope="module")
def other_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of another seed: other lesions than those of `small_set`."""
    out = tmp_path_factory.mktemp("other") / "set"
    options = {"plan_changes": {"test_per_class": 2}, "num_workers": 1, "progress": False}
    prepare(out, source_texts=["phantom=8"], seed=5, image_size=32, **options)
    return out


def _config(data: Path, steps: int, source: Path | None = None) -> ConfigDict:
    config = resgan.get_config("smoke")
    config.data_dir, config.num_steps, config.checkpoint_every_steps = str(data), steps, 1
    config.model.image_size = 32
    config.model.width = config.model.max_width = 4
    config.model.d_width = config.model.d_max_width = 4
    config.init_from = str(source) if source else ""
    return config


@pytest.fixture(scope="module")
def pretrained(other_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    gan_trainer.train(_config(other_set, 2), folder)
    return folder


def _weights(folder: Path, step: int) -> tuple[dict, dict]:
    with Checkpoints(folder, read_only=True) as checkpoints:
        return checkpoints.restore_arrays(step, "state"), checkpoints.restore_config(step)


def test_weights_come_along_and_optimizers_do_not(
    pretrained: Path, small_set: Path, tmp_path: Path
) -> None:
    config = _config(small_set, 1, pretrained)
    # So slow that the first step leaves the weights where they were.
    config.optimizer.learning_rate = 1e-30
    gan_trainer.train(config, tmp_path / "run")
    before, _ = _weights(pretrained, 2)
    after, document = _weights(tmp_path / "run", 1)
    for net in ("g", "d"):
        chex.assert_trees_all_equal(after[net]["params"], before[net]["params"])
    assert int(after["step"]) == 1
    counts = [leaf for leaf in jax.tree.leaves(after["g"]["opt_state"]) if leaf.ndim == 0]
    assert [int(count) for count in counts] == [1]
    (source,) = document["pretraining"]
    assert source["data_dir"] != str(small_set)
    scratch = _config(small_set, 1)
    scratch.optimizer.learning_rate = 1e-30
    gan_trainer.train(scratch, tmp_path / "scratch")
    other, _ = _weights(tmp_path / "scratch", 1)
    kernel = ("UpsampleConv_0", "kernel")
    ours, theirs = (each["g"]["params"][kernel[0]][kernel[1]] for each in (after, other))
    assert not np.allclose(ours, theirs)


def test_a_gan_that_saw_test_lesions_is_refused(
    pretrained: Path, other_set: Path, small_set: Path, tmp_path: Path
) -> None:
    """Its training lesions become test lesions of the set to come."""
    swapped = tmp_path / "swapped"
    shutil.copytree(small_set, swapped)
    lines = (swapped / "splits.csv").read_text().splitlines()
    theirs = [
        line for line in (other_set / "splits.csv").read_text().splitlines() if "train" in line
    ]
    (swapped / "splits.csv").write_text("\n".join([*lines, theirs[0].replace("train", "test")]))
    sha = json.loads((other_set / "data_report.json").read_text())["split_hashes"]["train"]
    prepared.require_unseen(other_set, sha, small_set)
    with pytest.raises(LeakError, match="shares image_id with 1 images of the validation and test"):
        prepared.require_unseen(other_set, sha, swapped)
    with pytest.raises(DermaganError, match="is not the set that the weights were trained on"):
        prepared.require_unseen(small_set, sha, small_set)


@pytest.mark.parametrize("seen_as", ["train", "others"])
@pytest.mark.parametrize("knows", ["theirs", "ours"])
def test_a_look_alike_of_a_test_image_is_refused(
    other_set: Path, small_set: Path, monkeypatch: pytest.MonkeyPatch, knows: str, seen_as: str
) -> None:
    """The set that holds both images knows that they look alike, whichever of the two it is."""
    theirs, ours = (prepared.read_manifest(folder) for folder in (other_set, small_set))
    trained = next(row for row in theirs if row["split"] == "train")
    trained["split"] = seen_as
    tested = next(row for row in ours if row["split"] == "test")
    if knows == "theirs":
        theirs.append({**tested, "split": "unused", "group": trained["group"], "lesion_id": ""})
    else:
        ours.append({**trained, "split": "unused", "group": tested["group"], "lesion_id": ""})
    manifests = {other_set: theirs, small_set: ours}
    monkeypatch.setattr(prepared, "read_manifest", manifests.__getitem__)
    sha = prepared.load_report(other_set)["split_hashes"]["train"]
    with pytest.raises(LeakError, match=f"shares group with .* {tested['image_id']} .test. is one"):
        prepared.require_unseen(other_set, sha, small_set)
    # Groups of one name in two sets are strangers.
    (theirs if knows == "theirs" else ours).pop()
    tested["group"] = trained["group"]
    prepared.require_unseen(other_set, sha, small_set)


def test_a_line_of_ancestors_is_checked(
    pretrained: Path, small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gan_trainer.train(_config(small_set, 1, pretrained), tmp_path / "child")
    gan_trainer.train(_config(small_set, 1, tmp_path / "child"), tmp_path / "grandchild")
    _, document = _weights(tmp_path / "grandchild", 1)
    assert len(document["pretraining"]) == 2
    checked = []
    monkeypatch.setattr(
        gan_trainer.pretraining.prepared,
        "require_unseen",
        lambda trained_on, *_: checked.append(str(trained_on)),
    )
    gan_trainer.train(_config(small_set, 1, tmp_path / "grandchild"), tmp_path / "last")
    assert len(checked) == 3
    assert checked[1:] == [str(small_set)] * 2


def test_other_networks_and_other_folders_are_refused(
    pretrained: Path, small_set: Path, tmp_path: Path
) -> None:
    config = _config(small_set, 1, pretrained)
    config.model.max_width = 8
    with pytest.raises(DermaganError, match="are not those of this configuration"):
        gan_trainer.train(config, tmp_path / "wide")
    with pytest.raises(DermaganError, match="holds no checkpoints"):
        gan_trainer.train(_config(small_set, 1, tmp_path / "nothing"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
