"""Who gets which device, and entries that are put together and taken apart."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dermagan_jax import parallel
from dermagan_jax.errors import DermaganError


@pytest.mark.parametrize(
    ("num_runs", "expected"),
    [
        (1, [[0, 1, 2, 3]]),
        (2, [[0, 1], [2, 3]]),
        (3, [[0], [1], [2]]),
        (6, [[0], [1], [2], [3], [0], [1]]),
    ],
)
def test_runs_share_four_devices(num_runs: int, expected: list[list[int]]) -> None:
    meshes = parallel.share_devices(num_runs, 8)
    assert [[device.id for device in mesh.devices.flat] for mesh in meshes] == expected


def test_a_batch_that_a_share_cannot_split_is_refused() -> None:
    assert len(parallel.share_devices(4, 3)) == 4
    with pytest.raises(DermaganError, match="batch_size is 3, which 2 devices cannot share"):
        parallel.share_devices(2, 3)


@pytest.mark.parametrize("num_runs", [1, 1000])
def test_each_core_becomes_a_device_as_far_as_there_are_runs(num_runs: int) -> None:
    program = (
        "import jax; from dermagan_jax import parallel; "
        f"parallel.one_device_a_core({num_runs}); print(jax.device_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert int(done.stdout) == min(num_runs, cores)


def test_what_is_stacked_comes_apart() -> None:
    (mesh,) = parallel.share_devices(1, 4)
    trees = [{"w": jnp.full((2, 3), at), "step": jnp.asarray(at)} for at in range(3)]
    stacked = parallel.stack(trees, mesh)
    assert stacked["w"].shape == (3, 2, 3)
    assert stacked["w"].sharding.device_set == set(mesh.devices.flat)
    for ours, expected in zip(parallel.unstack(stacked), trees, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.parametrize("count", [1, 3])
def test_a_step_is_mapped_over_the_first_axis(count: int) -> None:
    def step(state: jax.Array, batch: jax.Array, key: jax.Array) -> tuple[jax.Array, dict]:
        state = state + batch.sum() * jax.random.uniform(key)
        return state, {"state": state}

    states, batches = jnp.arange(count) * 1.0, jnp.arange(count * 2.0).reshape(count, 2)
    keys = jax.random.split(jax.random.key(0), count)
    after, metrics = jax.jit(parallel.map_over_first_axis(step))(states, batches, keys)
    expected = [step(states[at], batches[at], keys[at])[0] for at in range(count)]
    np.testing.assert_allclose(after, expected, rtol=1e-6)
    np.testing.assert_array_equal(metrics["state"], after)


def test_lanes_take_their_own_entries_of_the_batches() -> None:
    def lane(state: float, batches: dict, base: int, start: int, stop: int) -> tuple:
        return state + batches["x"].sum(), (batches["x"].tolist(), base, start, stop)

    steps = parallel.side_by_side([(lane, slice(0, 2)), (lane, slice(2, 3))])
    states, metrics = steps([10, 20], {"x": np.arange(6).reshape(2, 3)}, 7, 0, 2)
    assert states == [10 + 0 + 1 + 3 + 4, 20 + 2 + 5]
    assert metrics == [([[0, 1], [3, 4]], 7, 0, 2), ([[2], [5]], 7, 0, 2)]
