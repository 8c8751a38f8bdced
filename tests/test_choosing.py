"""Filters of generated images: what they keep, and that they look at training lesions only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import lesion_cnn
from dermagan_jax import (
    choosing,
    classifier_trainer,
    diffaugment,
    features,
    generated_images,
    synthesis,
    trained_classifier,
)
from dermagan_jax.data import prepared
from dermagan_jax.errors import DermaganError, LeakError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.synthesis import BATCH_SIZE


def _is_even(image: np.ndarray) -> np.ndarray:
    return image.sum(axis=(1, 2, 3), dtype=int) % 2 == 0


class Even:
    """Keeps the images whose bytes add up to an even number."""

    settings: Mapping[str, str] = MappingProxyType({"filter": "even"})

    def accepts(self, image: np.ndarray, label: int) -> np.ndarray:
        assert image.shape == (BATCH_SIZE, 64, 64, 3)
        assert 0 <= label < len(CLASSES)
        return _is_even(image)


class Bright:
    """Keeps the brighter half of a batch."""

    settings: Mapping[str, str] = MappingProxyType({"filter": "bright"})

    def accepts(self, image: np.ndarray, label: int) -> np.ndarray:
        del label
        brightness = image.mean(axis=(1, 2, 3))
        return brightness > np.median(brightness)


class Nothing:
    settings: Mapping[str, str] = MappingProxyType({"filter": "nothing"})

    def accepts(self, image: np.ndarray, label: int) -> np.ndarray:
        del label
        return np.zeros(len(image), bool)


@pytest.fixture(scope="module")
def trained(tiny_gan: Path) -> synthesis.TrainedGan:
    return synthesis.load_gan(tiny_gan)


def test_filters_keep_the_first_that_pass(trained: synthesis.TrainedGan) -> None:
    everything = synthesis.generate(trained, per_class=2 * BATCH_SIZE, seed=3)
    # More than half a batch, so that a second one is looked at.
    found = synthesis.generate(trained, per_class=45, seed=3, filters=[Even()])
    np.testing.assert_array_equal(found.label, np.arange(4).repeat(45))
    for label, name in enumerate(CLASSES):
        mine = everything.image[everything.label == label]
        expected = np.flatnonzero(_is_even(mine))[:45]
        ours = found.label == label
        np.testing.assert_array_equal(found.index[ours], expected)
        np.testing.assert_array_equal(found.image[ours], mine[expected])
        assert expected[-1] >= BATCH_SIZE
        passed = found.provenance["passed"][name]
        looked_at = mine[: passed["candidates"]]
        assert passed["after"] == [int(_is_even(looked_at).sum())]
    assert found.provenance["filters"] == [{"filter": "even"}]
    fewer = synthesis.generate(trained, per_class=9, seed=3, filters=[Even()])
    np.testing.assert_array_equal(found.first(dict.fromkeys(CLASSES, 9)).image, fewer.image)


@pytest.mark.parametrize(
    ("conditioning", "logits", "kept"),
    [
        # A projected discriminator's places count alike.
        ("conditional", [[9, 0, 0], [0, 5, 0], [4, 4, 4], [0, 0, 1]], [0, 2]),
        ("transitional", [[9, 0], [0, 5], [4, 4], [0, 1]], [1, 2]),
    ],
)
def test_several_logits_of_an_image_make_one(
    tiny_gan: Path,
    trained: synthesis.TrainedGan,
    conditioning: str,
    logits: list[list[int]],
    kept: list[int],
) -> None:
    best = choosing.Realistic(tiny_gan, trained.step, share=0.5)
    best._config = {**best._config, "conditioning": conditioning}
    best._score = lambda *_: jnp.array(logits)
    accepted = best.accepts(np.zeros((4, 64, 64, 3), np.uint8), 0)
    assert np.flatnonzero(accepted).tolist() == kept


def test_a_last_group_is_filled_up(tiny_gan: Path, trained: synthesis.TrainedGan) -> None:
    best = choosing.Realistic(tiny_gan, trained.step, share=0.5)
    sizes = []

    def score(_: object, image: jnp.ndarray, __: object) -> jnp.ndarray:
        sizes.append(len(image))
        return image.mean(axis=(1, 2, 3))

    best._score = score
    image = np.arange(6, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 64, 64, 3), np.uint8)
    assert np.flatnonzero(best.accepts(image, 0)).tolist() == [3, 4, 5]
    assert sizes == [8]


def test_an_image_passes_all_filters(trained: synthesis.TrainedGan) -> None:
    everything = synthesis.generate(trained, per_class=BATCH_SIZE, seed=3)
    found = synthesis.generate(trained, per_class=3, seed=3, filters=[Even(), Bright()])
    for label, name in enumerate(CLASSES):
        mine = everything.image[everything.label == label]
        even, bright = _is_even(mine), Bright().accepts(mine, label)
        both = np.flatnonzero(even & bright)
        np.testing.assert_array_equal(found.index[found.label == label], both[:3])
        assert found.provenance["passed"][name] == {
            "candidates": BATCH_SIZE,
            "after": [even.sum(), len(both)],
        }


def test_filters_that_let_nothing_pass_end_in_an_error(
    trained: synthesis.TrainedGan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesis, "MOST_CANDIDATES", 2)
    with pytest.raises(DermaganError, match="0 of 128 candidates of actinic_keratosis passed"):
        synthesis.generate(trained, per_class=5, seed=3, filters=[Even(), Nothing()])


def test_the_manifest_names_the_candidate(trained: synthesis.TrainedGan, tmp_path: Path) -> None:
    found = synthesis.generate(trained, per_class=3, seed=3, filters=[Even()])
    generated_images.write_folder(found, tmp_path / "out")
    loaded = generated_images.load_folder(tmp_path / "out")
    np.testing.assert_array_equal(loaded.index, found.index)
    np.testing.assert_array_equal(loaded.image, found.image)
    assert (tmp_path / "out" / "melanoma" / "melanoma_000002.png").is_file()


def test_truncated_latents_stay_within_their_bound() -> None:
    config = {"model": {"latent_size": 64}}
    z = np.asarray(synthesis.draw_latents(0, 1, 0, 100, config, truncation=0.5))
    assert 0.45 < np.abs(z).max() <= 0.5
    assert abs(z.mean()) < 0.02
    heavy = {"model": {"latent_size": 64, "latent_degrees": 3.0}}
    with pytest.raises(ValueError, match="Student's t"):
        synthesis.draw_latents(0, 1, 0, 1, heavy, truncation=0.5)


@pytest.mark.parametrize("truncation", [-1.0, 0.5])
def test_a_truncation_that_cannot_be_is_refused(
    trained: synthesis.TrainedGan, truncation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if truncation > 0:
        monkeypatch.setattr(synthesis.gan_config, "latent_degrees", lambda _: 3.0)
    with pytest.raises(DermaganError, match="truncation is"):
        synthesis.generate(trained, per_class=1, seed=0, truncation=truncation)


def test_the_discriminators_best_stay(tiny_gan: Path, trained: synthesis.TrainedGan) -> None:
    image = synthesis.generate(trained, per_class=BATCH_SIZE, seed=3).image[:BATCH_SIZE]
    quarter, half, whole = (
        choosing.Realistic(tiny_gan, trained.step, share=share).accepts(image, 0)
        for share in (0.25, 0.5, 1.0)
    )
    assert [each.sum() for each in (quarter, half, whole)] == [16, 32, 64]
    assert half[quarter].all()
    # By hand, from the checkpoint's own discriminator.
    best = choosing.Realistic(tiny_gan, trained.step, share=0.25)
    variables = jax.tree.map(lambda leaf: leaf[0], best._variables)
    logits = np.asarray(best._score(variables, image / 127.5 - 1.0, None))
    assert logits[quarter].min() >= logits[~quarter].max()
    with pytest.raises(DermaganError, match="give a number above 0"):
        choosing.Realistic(tiny_gan, trained.step, share=0.0)


@pytest.fixture(scope="module")
def classifier(phantom_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = lesion_cnn.get_config("smoke")
    config.data_dir = str(phantom_set)
    config.num_steps, config.eval_every_steps, config.batch_size = 2, 2, 8
    folder = tmp_path_factory.mktemp("classifier") / "run"
    classifier_trainer.train(config, folder)
    return folder


def test_a_classifier_keeps_what_it_agrees_with(classifier: Path, phantom_set: Path) -> None:
    sha256 = prepared.load_report(phantom_set)["split_hashes"]["train"]
    agreed = choosing.Agreed(classifier, train_split_sha256=sha256)
    image = prepared.load_split(phantom_set, "train").image[:20]
    votes = np.stack([agreed.accepts(image, label) for label in range(4)])
    np.testing.assert_array_equal(votes.sum(axis=0), 1)
    trained = trained_classifier.load_classifier(classifier)
    logits = np.asarray(trained.model.apply(trained.variables, image / 127.5 - 1.0, train=False))
    np.testing.assert_array_equal(votes.argmax(axis=0), logits.argmax(axis=1))
    with pytest.raises(LeakError, match="another training split"):
        choosing.Agreed(classifier, train_split_sha256="0" * 64)


def test_copies_are_dropped(phantom_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = features.Extractor(
        "pixels", "", 16, lambda batch: np.asarray(batch, np.float32).reshape(len(batch), -1) / 255
    )
    monkeypatch.setattr(choosing, "find_extractor", lambda _: pixels)
    sha256 = prepared.load_report(phantom_set)["split_hashes"]["train"]
    no_copies = choosing.NoCopies(phantom_set, features="pixels", train_split_sha256=sha256)
    assert no_copies.settings["threshold"] > 0
    training = prepared.load_split(phantom_set, "train").image[:8]
    nearly = np.clip(training.astype(int) + 1, 0, 255).astype(np.uint8)
    assert not no_copies.accepts(training, 0).any()
    assert not no_copies.accepts(nearly, 0).any()
    assert no_copies.accepts(255 - training, 0).all()
    # Lesions that no training picture shows are no copies.
    heldout = prepared.load_split(phantom_set, "test").image
    assert no_copies.accepts(heldout, 0).mean() > 0.7
    with pytest.raises(LeakError, match="another training split"):
        choosing.NoCopies(phantom_set, features="pixels", train_split_sha256="0" * 64)
    # Of a GAN that was shown them turned, turned copies go too.
    views = diffaugment.turns(training)
    turned = views[1 + np.arange(8) % 7, np.arange(8)]
    assert no_copies.accepts(turned, 0).any()
    of_turns = choosing.NoCopies(
        phantom_set, features="pixels", train_split_sha256=sha256, turned=True
    )
    assert of_turns.settings["turned"]
    assert not of_turns.accepts(turned, 0).any()
    assert of_turns.accepts(255 - training, 0).all()
    # Its threshold is one of nearest turns too, so that other lesions stay as they did.
    assert of_turns.settings["threshold"] <= no_copies.settings["threshold"]
    assert of_turns.accepts(heldout, 0).mean() > 0.7
