"""What a classifier's configuration means, and the classifiers on others' networks."""

from __future__ import annotations

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.formula import formula
from ml_collections import ConfigDict

from configs import backbone, dcgan, lesion_cnn, resgan, study
from dermagan_jax import classifier_config, classifier_trainer
from dermagan_jax.errors import DermaganError
from dermagan_jax.nets import backbones, pretrained
from dermagan_jax.trained_classifier import load_classifier


def _lite0(**changes: object) -> ConfigDict:
    config = backbone.get_config("efficientnet_lite0")
    config.model.side = config.model.image_size = 32
    with config.unlocked():
        config.model.update(changes)
    return config


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("network", "alexnet", "network is 'alexnet'; known: 'lesion_cnn', 'vgg16'"),
        ("side", 40, "side is 40; give a multiple of 32"),
        ("weights", "none", "'none', and efficientnet_lite0 always starts from the weights in its"),
        ("weights", "mine.pth", "'mine.pth', and efficientnet_lite0 always starts from"),
        ("dropout_rate", 1.0, "dropout_rate is 1.0; give a number from 0, below 1"),
    ],
)
def test_bad_values_are_named(field: str, value: object, message: str) -> None:
    with pytest.raises(DermaganError, match=message):
        classifier_config.check(_lite0(**{field: value}))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("augmentation", "augmentation: 'much'; choose one of"),
        ("mixing", r"config\.mixing is 'much'; known"),
    ],
)
def test_names_are_known_before_anything_runs(field: str, message: str) -> None:
    config = lesion_cnn.get_config()
    config[field] = "much"
    with pytest.raises(DermaganError, match=message):
        classifier_config.check(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "linear"}, r"optimizer\.schedule is 'linear'; known: 'constant', 'cosine'"),
        (
            {"schedule": "cosine", "warmup_steps": 10},
            r"optimizer\.warmup_steps is 10; give a number from 0, below the 10 of config\.num_st",
        ),
        ({"schedule": "cosine", "warmup_steps": -1}, r"optimizer\.warmup_steps is -1; give"),
    ],
)
def test_a_schedule_that_cannot_be_is_named(changes: dict[str, object], message: str) -> None:
    config = _lite0()
    config.num_steps = 10
    config.optimizer.update(changes)
    with pytest.raises(DermaganError, match=message):
        classifier_config.check(config)


def test_a_cosine_rate_rises_and_falls_to_nothing() -> None:
    config = _lite0(frozen=False)
    config.num_steps = 20
    config.optimizer.update({"schedule": "cosine", "warmup_steps": 4, "learning_rate": 0.5})
    tx = classifier_config.make_optimizer(config)
    params = {"weight": jnp.ones(())}
    state, moved = tx.init(params), []
    for _ in range(21):
        updates, state = tx.update(params, state, params)
        moved.append(-float(updates["weight"]))
    # Adam moves by the rate where all gradients are the same.
    np.testing.assert_allclose(moved[:5], [0, 0.125, 0.25, 0.375, 0.5], rtol=1e-4)
    np.testing.assert_allclose(moved[12], 0.25, rtol=1e-4)  # Half of the way down.
    np.testing.assert_allclose(moved[20], 0, atol=1e-7)
    config.optimizer.schedule = "constant"
    constant = classifier_config.make_optimizer(config)
    updates, _ = constant.update(params, constant.init(params), params)
    np.testing.assert_allclose(updates["weight"], -0.5, rtol=1e-4)


def test_a_gans_recipe_is_no_classifiers(tmp_path: Path) -> None:
    for recipe in (dcgan, resgan, study):
        with pytest.raises(DermaganError, match="so it is no classifier's; give one such as conf"):
            classifier_trainer.train(recipe.get_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_network_needs_its_fields() -> None:
    config = lesion_cnn.get_config()
    config.model.network = "vgg16"
    with pytest.raises(DermaganError, match=r"model\.side is not there; start from .*:vgg16"):
        classifier_config.check(config)


def test_the_papers_network_takes_one_size() -> None:
    config = lesion_cnn.get_config()
    config.model.image_size = 128
    with pytest.raises(DermaganError, match="image_size is 128; the paper's CNN takes 64"):
        classifier_config.check(config)


def test_random_weights_are_not_frozen() -> None:
    config = backbone.get_config("mobilenet")
    config.model.weights = "none"
    with pytest.raises(DermaganError, match="'none', with which nothing may be frozen; give"):
        classifier_config.check(config)


@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_every_network_has_a_configuration(name: str) -> None:
    classifier_config.check(backbone.get_config(name))


def test_missing_weights_are_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    config = backbone.get_config("mobilenet")
    with pytest.raises(DermaganError, match=r"models/mobilenet_1_0_224_tf_no_top.h5: is missing"):
        classifier_config.initial_weights(config)
    config.model.weights = str(tmp_path / "mine.h5")
    with pytest.raises(DermaganError, match=r"mine\.h5: is missing, the weights of mobilenet"):
        classifier_config.initial_weights(config)
    (tmp_path / "mine.h5").touch()
    assert classifier_config.weights_file(config) == tmp_path / "mine.h5"
    config.model.weights, config.model.frozen = "none", False
    assert classifier_config.initial_weights(config) is None


def test_a_frozen_network_is_left_alone() -> None:
    params = {"backbone": {"kernel": jnp.ones(3)}, "logits": {"kernel": jnp.ones(2)}}
    for frozen in (True, False):
        tx = classifier_config.make_optimizer(_lite0(frozen=frozen))
        updates, _ = tx.update(params, tx.init(params), params)
        moved = {name: bool(np.any(tree["kernel"])) for name, tree in updates.items()}
        assert moved == {"backbone": not frozen, "logits": True}


def test_seeds_differ_in_the_last_layer_alone() -> None:
    config = _lite0()
    weights = classifier_config.initial_weights(config)
    one, other = (
        classifier_config.create_state(jax.random.key(seed), weights, config=config).net
        for seed in (0, 1)
    )
    chex.assert_trees_all_equal(one.params["backbone"], other.params["backbone"])
    loaded = pretrained.efficientnet_lite0_variables()
    chex.assert_trees_all_equal(one.params["backbone"]["network"], loaded["params"])
    chex.assert_trees_all_equal(one.batch_stats["backbone"]["network"], loaded["batch_stats"])
    kernels = [np.asarray(net.params["logits"]["kernel"]) for net in (one, other)]
    assert not np.allclose(*kernels)
    bound = np.sqrt(6 / (1280 + 4))
    assert np.abs(kernels).max() <= bound
    assert np.std(kernels) == pytest.approx(bound / np.sqrt(3), rel=0.05)


def test_each_network_gets_what_its_weights_were_trained_on() -> None:
    pixels = np.array([0, 127, 255], np.float32)
    image = jnp.broadcast_to(pixels[:, None, None, None] / 127.5 - 1, (3, 1, 1, 3))
    taken = {
        name: np.asarray(each.prepare(image))[:, 0, 0] for name, each in backbones.BACKBONES.items()
    }
    np.testing.assert_allclose(taken["mobilenet"][:, 0], pixels / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(taken["efficientnet_lite0"][:, 0], (pixels - 127) / 128, atol=1e-6)
    red_first = image * jnp.array([1.0, 0.0, 0.0])[None, None, None]
    caffe = np.asarray(backbones.BACKBONES["resnet50"].prepare(red_first))[:, 0, 0]
    np.testing.assert_allclose(caffe[:, 2], pixels - 123.68, atol=1e-4)
    np.testing.assert_allclose(caffe[:, 0], np.full(3, 127.5 - 103.939), atol=1e-4)


def test_a_last_layer_learns_on_a_frozen_network(small_set: Path, tmp_path: Path) -> None:
    config = _lite0()
    config.data_dir, config.augmentation = str(small_set), "none"
    config.batch_size = 4
    config.num_steps, config.log_every_steps, config.eval_every_steps = 2, 1, 2
    summary = classifier_trainer.train(config, tmp_path / "run")
    assert summary["num_params"] > 3_000_000
    trained = load_classifier(tmp_path / "run")
    assert (trained.network, trained.image_size) == ("efficientnet_lite0", 32)
    loaded = pretrained.efficientnet_lite0_variables()
    chex.assert_trees_all_equal(
        trained.variables["params"]["backbone"]["network"], loaded["params"]
    )
    image = jnp.tanh(formula((2, 32, 32, 3), seed=1))
    logits = trained.model.apply(trained.variables, image, train=False)
    assert logits.shape == (2, 4)
    assert bool(jnp.any(trained.variables["params"]["logits"]["bias"] != 0))
