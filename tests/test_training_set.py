"""Which images a classifier is trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import lesion_cnn
from dermagan_jax import generated_images, synthesis, training_set
from dermagan_jax.data import prepared
from dermagan_jax.data.training import TrainingData, open_for_training
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES


@pytest.fixture(scope="module")
def opened(phantom_set: Path) -> TrainingData:
    return open_for_training(str(phantom_set), image_size=64)


@pytest.fixture(scope="module")
def generated(tiny_gan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "images"
    made = synthesis.generate(synthesis.load_gan(tiny_gan), per_class=5, seed=0)
    generated_images.write_folder(made, folder)
    return folder


def _config(**changes: object) -> ConfigDict:
    config = lesion_cnn.get_config("smoke")
    config.update_from_flattened_dict(changes)
    return config


def test_by_default_all_real_images_and_no_others(opened: TrainingData) -> None:
    chosen = training_set.assemble(_config(), opened)
    assert chosen.images is opened.train
    assert (chosen.num_real, chosen.description["generated"]) == (len(opened.train), None)


def test_a_share_is_whole_lesions_and_grows_by_more(opened: TrainingData) -> None:
    split = prepared.load_split(opened.folder, "train")
    taken = []
    for share in (0.3, 0.6):
        config = _config(**{"real.share": share})
        images = training_set.assemble(config, opened).images
        for label, name in enumerate(CLASSES):
            wanted = round(share * opened.train.counts()[name])
            assert (images.label == label).sum() == wanted
        names = zip(split.image, split.image_id, strict=True)
        known = {image.tobytes(): name for image, name in names}
        taken.append({known[image.tobytes()] for image in images.image})
    assert taken[0] < taken[1]
    lesion = dict(zip(split.image_id, split.lesion_id, strict=True))
    of_taken = {lesion[name] for name in taken[0]}
    of_others = {lesion[name] for name in set(split.image_id) - taken[0]}
    # A class's last lesion may be cut short, to reach the share.
    assert len(of_taken & of_others) <= len(CLASSES)


def test_repeats_use_up_all_images_before_one_comes_twice(opened: TrainingData) -> None:
    chosen = training_set.assemble(_config(**{"real.repeated": 1.5}), opened)
    counts = opened.train.counts()
    assert chosen.images.counts() == {
        name: count + round(1.5 * count) for name, count in counts.items()
    }
    _, often = np.unique(chosen.images.image, axis=0, return_counts=True)
    assert set(often) == {2, 3}
    assert chosen.num_real == len(chosen.images)


def test_shuffled_labels_are_the_same_labels_elsewhere(
    opened: TrainingData, generated: Path
) -> None:
    config = _config(**{"synthetic.dir": str(generated), "synthetic.only": True})
    plain = training_set.assemble(config, opened)
    config.synthetic.shuffle_labels = True
    shuffled = training_set.assemble(config, opened)
    assert (plain.num_real, len(plain.images)) == (0, 20)
    np.testing.assert_array_equal(plain.images.image, shuffled.images.image)
    assert shuffled.images.counts() == plain.images.counts()
    assert (shuffled.images.label != plain.images.label).any()
    assert shuffled.description["generated"]["shuffled_labels"]


def test_generated_images_may_be_there_at_first_alone(
    opened: TrainingData, generated: Path
) -> None:
    config = _config(**{"synthetic.dir": str(generated), "num_steps": 10})
    whole = training_set.assemble(config, opened)
    assert (len(whole.images), whole.at_first) == (whole.num_real + 20, None)
    config.synthetic.until = 0.3
    chosen = training_set.assemble(config, opened)
    assert chosen.images is opened.train
    assert (chosen.num_real, chosen.num_generated) == (whole.num_real, whole.num_generated)
    assert chosen.at_first is not None
    np.testing.assert_array_equal(chosen.at_first.image, whole.images.image[-20:])
    assert chosen.first_steps == 3
    config.synthetic.until = 0.001
    assert training_set.assemble(config, opened).first_steps == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"real.share": 0.0}, "share is 0.0; give a number above 0, up to 1"),
        ({"real.repeated": -1.0}, "repeated is -1.0; give a number from 0"),
        ({"synthetic.ratio": -0.5}, r"ratio is -0\.5; give a number from 0"),
        ({"synthetic.only": True}, "give gan_workdir or dir to take the images from"),
        ({"synthetic.until": 0.0}, r"until is 0\.0; give a number above 0, up to 1"),
        ({"synthetic.until": 0.5}, "give gan_workdir or dir to take the images from"),
        (
            {"synthetic.dir": "images", "synthetic.only": True, "synthetic.until": 0.5},
            "only leaves out the real images, which the steps after until see alone",
        ),
    ],
)
def test_what_makes_no_sense_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DermaganError, match=message):
        training_set.check(_config(**changes))


def test_a_ratio_that_gives_no_image_is_not_the_whole_folder(
    opened: TrainingData, generated: Path
) -> None:
    config = _config(**{"synthetic.dir": str(generated), "synthetic.ratio": 0.001})
    with pytest.raises(DermaganError, match=r"ratio is 0\.001, which gives no image of any class"):
        training_set.assemble(config, opened)


def _row(name: str, split: str, lesion: str, group: str) -> dict[str, str]:
    return {
        "image_id": name,
        "split": split,
        "lesion_id": lesion,
        "group": group,
        "pixels_sha256": name.rstrip("'"),
    }


def test_more_real_images_have_nothing_to_do_with_this_sets(
    opened: TrainingData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = [
        _row("a", "train", "L1", "1"),
        _row("b", "test", "L2", "2"),
        _row("g", "unused", "L3", "3"),  # Our set is capped.
    ]
    theirs = [
        _row("a", "train", "L1", "10"),
        _row("like_a", "train", "L9", "10"),  # Looks like an image of ours.
        _row("b'", "train", "L8", "11"),  # The pixels of one of ours under another name.
        _row("c", "train", "L2", "12"),  # The lesion of a test image.
        _row("d", "train", "L1", "13"),  # Another image of a training lesion.
        _row("e", "train", "", "14"),
        _row("f", "test", "L7", "15"),
        _row("g", "train", "L3", "16"),
    ]
    training = [row for row in theirs if row["split"] == "train"]
    split = prepared.Split(
        image=np.arange(7, dtype=np.uint8)[:, None, None, None]
        + np.zeros((1, 64, 64, 3), np.uint8),
        label=np.zeros(7, np.int32),
        image_id=np.array([row["image_id"] for row in training]),
        **dict.fromkeys(("lesion_id", "source", "site"), np.array([""] * 7)),
    )
    manifests = {opened.folder: ours, tmp_path: theirs}
    monkeypatch.setattr(prepared, "read_manifest", manifests.__getitem__)
    monkeypatch.setattr(prepared, "load_split", lambda *_: split)
    monkeypatch.setattr(prepared, "load_report", lambda _: {"image_size": 64})
    config = _config(**{"real.extra_dir": str(tmp_path)})
    chosen = training_set.assemble(config, opened)
    added = chosen.images.image[len(opened.train) :]
    assert added[:, 0, 0, 0].tolist() == [4, 5, 6]
    assert chosen.description["real"]["extra"]["actinic_keratosis"] == 3
    assert "extra_dir" not in chosen.description["real"]
    assert chosen.description["real"]["extra_sha256"] == hashlib.sha256(added).hexdigest()
    manifests[tmp_path] = theirs[:4]
    with pytest.raises(DermaganError, match="no training lesions beyond those of"):
        training_set.assemble(config, opened)
