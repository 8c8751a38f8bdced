"""Who gets which device, and entries that are put together and taken apart."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

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


def test_a_batch_that_a_share_cannot_split_is_refused_if_it_was_asked_for() -> None:
    assert len(parallel.share_devices(4, 3)) == 4
    with pytest.raises(DermaganError, match="batch_size is 3, which 2 devices cannot share"):
        parallel.share_devices(2, 3, sizes={parallel.DATA_AXIS: 2})


@pytest.mark.parametrize(("batch_size", "used"), [(8, 4), (30, 3), (10, 2), (7, 1)])
def test_cores_that_a_batch_does_not_fit_are_left_out(batch_size: int, used: int) -> None:
    """A study makes a device of each core, and there are machines of three and of five."""
    for mesh in (parallel.make_mesh(batch_size), *parallel.share_devices(1, batch_size)):
        assert mesh.shape == {parallel.ENTRY_AXIS: 1, parallel.DATA_AXIS: used}


def test_no_accelerator_is_left_out_unasked() -> None:
    gpu: Any = SimpleNamespace(platform="gpu")
    with pytest.raises(DermaganError, match="batch_size is 6, which 4 devices cannot share"):
        parallel.make_mesh(6, [gpu] * 4)


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


@pytest.mark.parametrize(
    ("text", "entries", "expected"),
    [
        ("", "", {}),
        ("data:4", "", {"data": 4}),
        ("data:2, class:2", "class", {"data": 2, "entry": 2}),
        ("seed:3", "seed", {"entry": 3}),
    ],
)
def test_the_mesh_is_read(text: str, entries: str, expected: dict[str, int]) -> None:
    assert parallel.read_mesh(text, entries) == expected


@pytest.mark.parametrize("text", ["data", "data:0", "data:-1", "data:2,data:2", "class:2", "x:1"])
def test_another_mesh_is_refused(text: str) -> None:
    with pytest.raises(DermaganError, match="give a number of devices along data, such as data:2"):
        parallel.read_mesh(text, "")


@pytest.mark.parametrize(
    ("batch_size", "text", "said"),
    [
        (8, "data:4,class:2", "takes 8 devices, and there are 4"),
        (8, "class:3", "takes 3 devices, and there are 4"),
        (3, "data:2,class:2", "batch_size is 3, which 2 devices cannot share equally; set it to 2"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(batch_size: int, text: str, said: str) -> None:
    sizes = parallel.read_mesh(text, "class")
    with pytest.raises(DermaganError, match=said):
        parallel.make_mesh(batch_size, sizes=sizes, num_entries=4)


def test_classes_that_devices_cannot_share_are_refused() -> None:
    sizes = parallel.read_mesh("class:4", "class")
    with pytest.raises(DermaganError, match="shares 6 classes among 4 devices"):
        parallel.make_mesh(8, sizes=sizes, num_entries=6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("seed:2,data:1", [[0], [1], [0]]), ("data:2", [[0, 1], [2, 3], [0, 1]])],
)
def test_the_mesh_says_what_a_run_of_several_gets(text: str, expected: list[list[int]]) -> None:
    meshes = parallel.share_devices(3, 8, sizes=parallel.read_mesh(text, "seed"))
    assert [[device.id for device in mesh.devices.flat] for mesh in meshes] == expected


@pytest.mark.parametrize("text", ["seed:5", "data:8", "data:4,seed:2"])
def test_more_shares_than_devices_are_refused(text: str) -> None:
    with pytest.raises(DermaganError, match=r"takes \d devices, and there are 4"):
        parallel.share_devices(2, 8, sizes=parallel.read_mesh(text, "seed"))


@pytest.mark.parametrize("text", ["class:4", "class:2", "data:4"])
def test_devices_that_share_entries_do_what_one_does(text: str) -> None:
    """Each image is an entry's own, so that an entry or image in the wrong place would show."""
    batches = {"image": np.arange(3 * 4 * 8, dtype=np.float32).reshape(3, 4, 8)}

    def step(state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        noise = jax.random.normal(key, batch["image"].shape)
        change = (batch["image"] * (1 + 0.1 * noise)).mean()
        return {"w": state["w"] * 0.5 + change}, {"change": change}

    def key_of(key: jax.Array, index: jax.Array) -> jax.Array:
        return jax.vmap(lambda at: jax.random.fold_in(jax.random.fold_in(key, at), index))(
            jnp.arange(4)
        )

    def run(mesh: Mesh) -> Any:
        state = {"w": jnp.arange(4.0)}
        own = parallel.state_sharding(mesh, has_entries=True)
        mapped = parallel.map_over_first_axis(step, mesh)
        steps = parallel.compile_steps(mapped, key_of, mesh, batch_axis=1)
        after, metrics = steps(jax.random.key(0), jax.device_put(state, own), batches, 0, 0, 3)
        assert after["w"].sharding.is_equivalent_to(own, 1)
        return jax.device_get((after, metrics))

    shared = parallel.make_mesh(8, sizes=parallel.read_mesh(text, "class"), num_entries=4)
    alone = parallel.make_mesh(8, jax.devices()[:1])
    chex.assert_trees_all_close(run(shared), run(alone), rtol=1e-6)


def test_a_process_alone_has_the_whole_batch() -> None:
    mesh = parallel.make_mesh(8)
    assert parallel.own_part(mesh, (4, 8)) == (slice(0, 4), slice(0, 8))
    batch = {"image": np.zeros((1, 8))}
    (same,) = parallel.join_parts([batch], mesh, batch_axis=0, shape=(1, 8))
    assert same is batch
