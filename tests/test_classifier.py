"""Properties of the classifier's step, on a small network with BatchNorm and dropout."""

from __future__ import annotations

from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dermagan_jax import augmentation, classifier, parallel
from dermagan_jax.state import ClassifierState, create_classifier_state


class Net(nn.Module):
    """A small classifier with everything a larger one has."""

    axis_name: str | None = None
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(4, (3, 3), strides=2)(image)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x.mean(axis=(1, 2)))
        return nn.Dense(4)(x)


TX = optax.sgd(0.1)
BATCH_SIZE = 8


def _create(model: nn.Module) -> ClassifierState:
    return create_classifier_state(jax.random.key(0), model=model, tx=TX, image_size=8)


def _batch() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (BATCH_SIZE, 8, 8, 3), np.uint8)
    return {"image": image, "label": np.arange(BATCH_SIZE, dtype=np.int32) % 4}


def _step(model: nn.Module, policy: str = "none", **static: Any) -> Any:
    return partial(
        classifier.train_step,
        model=model,
        tx=TX,
        policy=augmentation.find_policy(policy),
        **static,
    )


def test_loss_falls_and_weights_move() -> None:
    model = Net()
    state, step = _create(model), jax.jit(_step(model))
    losses = []
    for number in range(30):
        state, metrics = step(state, _batch(), jax.random.key(number))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.1
    assert int(state.step) == 30


def test_jit_sharded_jit_shard_map_and_pmap_agree() -> None:
    state, batch, key = _create(Net()), _batch(), jax.random.key(0)
    expected = jax.jit(_step(Net()))(state, batch, key)
    mesh = parallel.make_mesh(BATCH_SIZE)
    copy = parallel.replicate(jax.tree.map(jnp.copy, state), mesh)
    steps = parallel.compile_steps(_step(Net()), lambda key, _: key, mesh)
    after, rows = steps(key, copy, jax.tree.map(lambda leaf: leaf[None], batch), 0, 0, 1)
    sharded = after, {name: row[0] for name, row in rows.items()}
    stacked = jax.tree.map(lambda leaf: leaf.reshape(4, -1, *leaf.shape[1:]), batch)
    mapped = _step(Net(axis_name="data"), axis_name="data")
    pmapped = parallel.pmap_step(mapped)(state, stacked, key)
    everywhere, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")
    shard_mapped = jax.jit(
        jax.shard_map(
            mapped,
            mesh=mesh,
            in_specs=(everywhere, split, everywhere),
            out_specs=(everywhere, everywhere),
        )
    )(state, batch, key)
    for other in (sharded, shard_mapped, pmapped):
        chex.assert_trees_all_close(jax.device_get(other), jax.device_get(expected), atol=1e-6)


def test_same_key_same_result_other_key_other_augmentation() -> None:
    model = Net(dropout_rate=0.5)
    step, state = jax.jit(_step(model, "notebook")), _create(model)
    one, again, other = (step(state, _batch(), jax.random.key(seed))[0] for seed in (1, 1, 2))
    chex.assert_trees_all_equal(one, again)
    kernel = [each.net.params["Dense_0"]["kernel"] for each in (one, other)]
    assert not np.allclose(*kernel)


def test_evaluation_leaves_the_state_alone_and_has_no_dropout() -> None:
    model = Net(dropout_rate=0.9)
    state, image = _create(model), _batch()["image"]
    evaluate = jax.jit(partial(classifier.eval_step, model=model))
    before = jax.tree.map(np.array, state)
    first, second = evaluate(state.net, image), evaluate(state.net, image)
    chex.assert_trees_all_equal(first, second)
    chex.assert_trees_all_equal(before, jax.tree.map(np.array, state))
    # Each image is scored by itself: its batch does not change its logits.
    chex.assert_trees_all_close(evaluate(state.net, image[:2]), first[:2], atol=1e-6)


@pytest.mark.parametrize("label", [0, 3])
def test_accuracy_counts_the_right_answers(label: int) -> None:
    class Fixed(nn.Module):
        @nn.compact
        def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
            bias = self.param("bias", lambda _: 5.0 * jax.nn.one_hot(label, 4))
            return jnp.broadcast_to(bias, (len(image), 4))

    _, metrics = jax.jit(_step(Fixed()))(_create(Fixed()), _batch(), jax.random.key(0))
    assert float(metrics["accuracy"]) == 0.25
    # A quarter of the images has the label: they cost log(1 + 3 e^-5), the others 5 more.
    expected = float(jnp.log1p(3 * jnp.exp(-5.0))) + 0.75 * 5
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
