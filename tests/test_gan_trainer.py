"""Training one GAN a class on phantoms, for a few steps."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from raw_set import run as prepare
from raw_set import write_isic2019

from configs import dcgan, resgan
from dermagan_jax import gan, gan_config, gan_trainer, images, losses, parallel, synthesis, workdir
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.errors import DermaganError, TrainingError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.nets import pretrained
from dermagan_jax.profiling import Window
from dermagan_jax.rollbacks import Rollbacks
from dermagan_jax.writers import METRICS_FILE, read_metrics


def _config(phantom_set: Path, **changes: int) -> ConfigDict:
    config = dcgan.get_config("smoke")
    config.data_dir = str(phantom_set)
    config.model.width, config.model.latent_size, config.batch_size = 4, 8, 4
    config.num_steps, config.log_every_steps, config.checkpoint_every_steps = 4, 1, 2
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def whole_run(phantom_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    gan_trainer.train(_config(phantom_set), folder)
    return folder


def test_a_run_leaves_what_it_promises(whole_run: Path, phantom_set: Path) -> None:
    summary = json.loads((whole_run / workdir.SUMMARY).read_text())
    report = json.loads((phantom_set / "data_report.json").read_text())
    assert summary["num_steps"] == 4
    assert summary["data"]["train_split_sha256"] == report["split_hashes"]["train"]
    rows = [row for row in read_metrics(whole_run / METRICS_FILE) if "train/d_loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    of_classes = [rows[-1][f"train/d_loss/{name}"] for name in CLASSES]
    assert rows[-1]["train/d_loss"] == pytest.approx(np.mean(of_classes), rel=1e-6)
    grid = images.read(whole_run / "samples" / "grid_000004.png")
    assert grid.shape == (4 * 64 + 3 * 2 + images.NOTE_HEIGHT, 10 * 64 + 9 * 2, 3)
    strip = images.grid(np.zeros((40, 64, 64, 3), np.uint8), 10, phantom=True)
    np.testing.assert_array_equal(grid[-images.NOTE_HEIGHT :], strip[-images.NOTE_HEIGHT :])
    assert list((whole_run / "tensorboard").iterdir())


def _train_on(config: ConfigDict, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Trains on from step 2."""
    with caplog.at_level(logging.INFO, logger="dermagan"):
        gan_trainer.train(config, folder)
    assert "going on from step 2" in caplog.text


def test_stopped_and_resumed_ends_the_same(
    whole_run: Path, phantom_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    gan_trainer.train(_config(phantom_set, num_steps=2), folder)
    # What a run that was killed after its checkpoint leaves behind: rows of steps to come.
    with (folder / METRICS_FILE).open("a") as file:
        file.write('{"step": 3, "train/d_loss": 1.0}\n{"step": 4, "tr')
    _train_on(_config(phantom_set), folder, caplog)
    assert (folder / METRICS_FILE).read_bytes() == (whole_run / METRICS_FILE).read_bytes()
    summaries = [json.loads((run / workdir.SUMMARY).read_text()) for run in (folder, whole_run)]
    assert summaries[0] == summaries[1]
    for name in ("grid_000002.png", "grid_000004.png"):
        ours, theirs = ((run / "samples" / name).read_bytes() for run in (folder, whole_run))
        assert ours == theirs
    states = []
    for run in (folder, whole_run):
        with Checkpoints(run, read_only=True) as checkpoints:
            states.append(checkpoints.restore_generator(4))
    chex.assert_trees_all_equal(*states)


def test_several_steps_a_call_and_a_profile_change_nothing(
    whole_run: Path, phantom_set: Path, tmp_path: Path
) -> None:
    config = _config(phantom_set)
    config.steps_per_call = 3
    gan_trainer.train(config, tmp_path / "run", profile=Window(1, 2))
    assert (tmp_path / "run" / METRICS_FILE).read_bytes() == (whole_run / METRICS_FILE).read_bytes()
    for path in (whole_run / "samples").iterdir():
        assert (tmp_path / "run" / "samples" / path.name).read_bytes() == path.read_bytes()
    assert list((tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz"))


def test_a_finished_run_is_not_trained_again(whole_run: Path, phantom_set: Path) -> None:
    before = (whole_run / METRICS_FILE).read_bytes()
    summary = gan_trainer.train(_config(phantom_set), whole_run)
    assert summary == json.loads((whole_run / workdir.SUMMARY).read_text())
    assert summary["last"]
    assert (whole_run / METRICS_FILE).read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_run(
    phantom_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object, state: object, *__: object) -> tuple:
        return state, {"d_loss": jnp.full((1, 4), jnp.nan), "g_loss": jnp.ones((1, 4))}

    monkeypatch.setattr(parallel, "compile_steps", lambda *_, **__: broken)
    with pytest.raises(TrainingError, match="no longer finite at step 1; there is no checkpoint"):
        gan_trainer.train(_config(phantom_set), tmp_path / "run")


def test_a_gradient_that_is_not_finite_stops_the_run(
    phantom_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the loss is: at 0 a root has no slope."""
    loss = losses.ADVERSARIAL["non_saturating"]
    broken = loss._replace(generator=lambda *both: loss.generator(*both) + jnp.sqrt(0 * both[1]))
    monkeypatch.setattr(losses, "ADVERSARIAL", {"non_saturating": broken})
    with pytest.raises(TrainingError, match="g_grad_norm/melanoma is no longer finite at step 1;"):
        gan_trainer.train(_config(phantom_set, num_steps=1), tmp_path / "run")
    (row,) = read_metrics(tmp_path / "run" / METRICS_FILE)
    assert all(name.startswith("train/g_grad_norm") for name in row["non_finite"])
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_loss_that_is_not_finite_stops_the_run_at_once(
    phantom_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at a step that is not logged, so that no such state becomes a checkpoint."""
    config = _config(phantom_set)
    config.log_every_steps = config.checkpoint_every_steps = 50
    _BrokenOnce(monkeypatch, at=2)
    with pytest.raises(TrainingError, match="d_loss/melanoma is no longer finite at step 2; there"):
        gan_trainer.train(config, tmp_path / "run")


class _BrokenOnce:
    """Steps whose loss is not finite at one step, at the first learning rate only."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, at: int) -> None:
        self._at, self._made = at, 0
        self._compile = parallel.compile_steps
        monkeypatch.setattr(parallel, "compile_steps", self._compile_broken)

    def _compile_broken(self, *args: object, **kwargs: object) -> object:
        steps = self._compile(*args, **kwargs)
        self._made += 1
        # The first is never run: it is built to see whether it can be.
        if self._made > 2:
            return steps

        def broken(key: object, state: object, batches: object, base: int, *bounds: int) -> tuple:
            state, metrics = steps(key, state, batches, base, *bounds)
            if base + bounds[0] + 1 == self._at:
                metrics["d_loss"] *= jnp.nan
            return state, metrics

        return broken


def test_trouble_sends_a_run_back_at_half_the_rate(
    phantom_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    config = _config(phantom_set)
    config.rollbacks, config.checkpoint_every_steps, config.log_every_steps = 1, 1, 1
    config.rollback_checkpoints = 2
    rate = config.optimizer.learning_rate
    _BrokenOnce(monkeypatch, at=4)
    summary = gan_trainer.train(config, tmp_path / "run")
    (back,) = summary["rollbacks"]
    assert (back["step"], back["learning_rate"]) == (2, rate / 2)
    assert "no longer finite at step 4" in back["reason"]
    assert "going back to step 2, learning rate" in caplog.text
    steps = [row["step"] for row in read_metrics(tmp_path / "run" / METRICS_FILE)]
    assert sorted(steps) == [1, 1, 2, 2, 3, 3, 4, 4]  # A row of losses and one of diversity each.
    # The same command again changes nothing; a longer one goes on at the smaller rate.
    assert gan_trainer.train(config, tmp_path / "run") == summary
    assert Rollbacks(config, tmp_path / "run").config().optimizer.learning_rate == rate / 2


def test_trouble_that_comes_again_ends_the_run(
    phantom_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object, state: object, *__: object) -> tuple:
        return state, {"d_loss": jnp.full((1, 4), jnp.nan), "g_loss": jnp.ones((1, 4))}

    monkeypatch.setattr(parallel, "compile_steps", lambda *_, **__: broken)
    config = _config(phantom_set)
    config.rollbacks = 2
    with pytest.raises(TrainingError, match="no longer finite at step 1"):
        gan_trainer.train(config, tmp_path / "run")
    assert len(Rollbacks(config, tmp_path / "run").done) == 2
    (tmp_path / "run" / workdir.ROLLBACKS).write_text('{"rollbacks": [1]}')
    with pytest.raises(DermaganError, match=r"rollbacks\.json: is damaged"):
        Rollbacks(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("data_dir", "", r"config\.data_dir is empty"),
        ("data_dir", "nowhere", "is no prepared set"),
        ("num_steps", 0, r"config\.num_steps is 0 and config\.total_kimg 0.0; give one"),
        ("total_kimg", 1.0, r"config\.num_steps is 4 and config\.total_kimg 1.0; give one"),
        ("log_every_steps", 0, r"config\.log_every_steps is 0"),
        ("conditioning", "psychic", "'psychic'; known: 'per_class', 'conditional', 'transit"),
        ("conditioning", "conditional", r"architecture is 'dcgan', which takes no class"),
        ("loss", "envy", "'envy'; known: 'non_saturating', 'hinge', 'relativistic'"),
        ("augment", "sepia", r"config\.augment is 'sepia'; give 'none', 'ada' or"),
        ("mesh", "data:3", r"config\.mesh takes 3 devices, and there are 4"),
        ("mesh", "rows:2", "give a number of devices along data and class, such as data:2,class:4"),
        ("rollbacks", -1, r"config\.rollbacks is -1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    phantom_set: Path, tmp_path: Path, field: str, value: object, named: str
) -> None:
    config = _config(phantom_set)
    config[field] = value
    with pytest.raises(DermaganError, match=named):
        gan_trainer.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("checkpoints/*"))


def test_another_image_size_is_refused(phantom_set: Path, tmp_path: Path) -> None:
    config = _config(phantom_set)
    config.model.image_size = 32
    with pytest.raises(DermaganError, match="--image-size 32"):
        gan_trainer.train(config, tmp_path / "run")


def _residual_config(small_set: Path, **changes: object) -> ConfigDict:
    config = resgan.get_config("smoke")
    config.data_dir = str(small_set)
    config.model.width = config.model.max_width = 4
    config.model.d_width = config.model.d_max_width = 4
    config.model.image_size, config.model.latent_size = 32, 8
    config.num_steps, config.log_every_steps, config.checkpoint_every_steps = 4, 1, 2
    config.penalty_interval = 3
    config.update(changes)
    return config


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": "ada", "ada_kimg": 0.1},
        {"conditioning": "transitional", "transition_kimg": (0.0, 0.05), "loss": "relativistic"},
    ],
)
def test_one_network_for_all_classes_stops_and_goes_on(
    small_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, object]
) -> None:
    """ADA's p moves at step 4, the penalty comes at step 3: both after the stop."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    gan_trainer.train(_residual_config(small_set, **changes), whole)
    gan_trainer.train(_residual_config(small_set, num_steps=2, **changes), parts)
    _train_on(_residual_config(small_set, **changes), parts, caplog)
    assert (parts / METRICS_FILE).read_bytes() == (whole / METRICS_FILE).read_bytes()
    rows = [row for row in read_metrics(whole / METRICS_FILE) if "train/d_loss" in row]
    assert [row["step"] for row in rows if row["train/d_penalty"] > 0] == [3]
    assert "train/d_loss/melanoma" not in rows[0]
    states = []
    for folder in (whole, parts):
        with Checkpoints(folder, read_only=True) as checkpoints:
            states.append(checkpoints.restore_generator(4))
    chex.assert_trees_all_equal(*states)
    trained = synthesis.load_gan(whole)
    some, more = (synthesis.generate(trained, per_class=n, seed=3) for n in (1, 2))
    np.testing.assert_array_equal(some.image, more.image[::2])
    z = synthesis.draw_latents(3, 2, 0, synthesis.BATCH_SIZE, trained.config)
    label = jax.nn.one_hot(jnp.full(len(z), 2), 4)
    by_hand = jax.jit(partial(gan.sample, generator=trained.generator))(trained.variables, z, label)
    np.testing.assert_array_equal(some.image[2], by_hand[0])


def test_a_gan_sees_other_lesions_before_it_knows_the_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_isic2019(tmp_path / "raw", nevi=20)
    prepare(tmp_path / "set", f"isic2019={tmp_path / 'raw'}", others=True)
    changes = {"conditioning": "transitional", "transition_kimg": (0.032, 0.064)}
    config = partial(_residual_config, tmp_path / "set", **changes)
    for kimg, folder in ((0.032, "with"), (0.0, "without")):
        gan_trainer.train(config(others_kimg=kimg), tmp_path / folder)
    gan_trainer.train(config(others_kimg=0.032, num_steps=2), tmp_path / "parts")
    _train_on(config(others_kimg=0.032), tmp_path / "parts", caplog)
    metrics = {name: (tmp_path / name / METRICS_FILE).read_bytes() for name in ("with", "parts")}
    assert metrics["with"] == metrics["parts"]
    assert metrics["with"] != (tmp_path / "without" / METRICS_FILE).read_bytes()
    found = json.loads((tmp_path / "with" / "summary.json").read_text())["data"]
    report = json.loads((tmp_path / "set" / "data_report.json").read_text())
    assert found["others_sha256"] == report["split_hashes"]["others"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"others_kimg": -1.0}, "others_kimg is -1.0; give a number from 0"),
        ({"others_kimg": 1.0}, "set config.conditioning to 'transitional'"),
        ({"others_kimg": 30.0, "conditioning": "transitional"}, "give a number up to 25.0"),
        ({"others_kimg": 1.0, "conditioning": "transitional"}, "prepare it with --others"),
    ],
)
def test_other_lesions_have_no_class(
    small_set: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(DermaganError, match=message):
        gan_trainer.train(_residual_config(small_set, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_residual_gan_for_each_class(small_set: Path, tmp_path: Path) -> None:
    config = _residual_config(small_set, conditioning="per_class", num_steps=1)
    summary = gan_trainer.train(config, tmp_path / "run")
    assert summary["kimg"] == 4 * 16 / 1000
    assert "train/d_loss/melanoma" in read_metrics(tmp_path / "run" / METRICS_FILE)[0]


def test_a_projected_discriminator_trains_its_heads(small_set: Path, tmp_path: Path) -> None:
    config = _residual_config(small_set, loss="hinge", num_steps=2, r1=0.0)
    config.model.discriminator, config.model.d_head_width = "projected", 4
    gan_trainer.train(config, tmp_path / "run")
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        d = checkpoints.restore_arrays(2, "state")["d"]
    assert set(d["params"]) == {f"Head_{index}" for index in range(4)}
    chex.assert_trees_all_equal(
        d["batch_stats"]["frozen"], pretrained.efficientnet_lite0_variables()
    )


def test_a_projected_discriminator_has_its_sides(small_set: Path, tmp_path: Path) -> None:
    config = _residual_config(small_set)
    config.model.discriminator, config.model.d_side = "projected", 48
    with pytest.raises(DermaganError, match="d_side is 48; give a multiple of 32"):
        gan_trainer.train(config, tmp_path / "run")


def test_samples_use_the_class_as_far_as_training_does(
    small_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = _residual_config(small_set, conditioning="transitional", num_steps=2)
    config.transition_kimg = (1.0, 2.0)
    config.model.discriminator, config.model.d_head_width = "projected", 4
    gan_trainer.train(config, tmp_path / "run")
    assert "transition_kimg ends at 2 and the run at 0.032" in caplog.text
    gan = synthesis.load_gan(tmp_path / "run")
    images = synthesis.generate(gan, per_class=dict.fromkeys(CLASSES, 2), seed=0).image
    embedding = gan.variables["params"]["class_embedding"]["kernel"]
    np.testing.assert_array_equal(embedding, np.zeros_like(embedding))
    assert len({each.tobytes() for each in images}) == len(images)


@pytest.mark.parametrize("variant", ["default", "residual", "demo", "smoke"])
def test_a_variant_runs_without_a_warning(variant: str) -> None:
    assert gan_config.warnings(resgan.get_config(variant)) == []


def test_a_budget_of_images_is_a_number_of_steps() -> None:
    config = resgan.get_config()
    assert gan_config.num_steps(config) == 200_000 // 32
    config.conditioning = "per_class"
    assert gan_config.num_steps(config) == -(-200_000 // (32 * 4))


def test_a_learning_rate_falls_over_the_second_half() -> None:
    config = resgan.get_config("smoke")
    config.optimizer.schedule = "linear"
    g_tx, _ = gan_config.make_optimizers(config)
    params = jnp.ones(())
    state, sizes = g_tx.init(params), []
    for _ in range(40):
        update, state = g_tx.update(jnp.ones(()), state, params)
        sizes.append(-float(update) / config.optimizer.learning_rate)
    # Adam moves by the rate where every gradient is the same.
    np.testing.assert_allclose(sizes[:20], 1, rtol=1e-3)
    np.testing.assert_allclose(sizes[20:], 1 - np.arange(20) / 20, rtol=1e-3)


def test_groups_must_divide_a_batch(small_set: Path, tmp_path: Path) -> None:
    with pytest.raises(DermaganError, match="give a multiple of 4"):
        gan_trainer.train(_residual_config(small_set, batch_size=6), tmp_path / "run")
