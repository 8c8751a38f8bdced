"""Digests know a tree again, wherever it lies, and tell it from a damaged one."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dermagan_jax import digests
from dermagan_jax.digests import digest

TREE = {
    "w": np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32),
    "half": np.arange(12, dtype=jnp.bfloat16).reshape(4, 3),
    "small": np.arange(7, dtype=np.uint8),
    "yes": np.array([True, False, True]),
    "step": np.int32(3),
}


@pytest.mark.parametrize("name", list(TREE))
def test_each_bit_counts(name: str) -> None:
    whole = np.atleast_1d(TREE[name])
    expected = digest(TREE)
    for place in range(whole.size):
        for bit in range(1 if whole.dtype == bool else 8 * whole.dtype.itemsize):
            changed = whole.copy()
            size = changed.dtype.itemsize
            changed.view(np.uint8).reshape(-1)[place * size + bit // 8] ^= 1 << bit % 8
            damaged = TREE | {name: changed.reshape(np.shape(TREE[name]))}
            assert digest(damaged) != expected


def test_moved_and_swapped_content_counts() -> None:
    rolled = TREE | {"w": np.roll(TREE["w"], 1)}
    one, two = np.float32(1), np.float32(2)
    assert digest(rolled) != digest(TREE)
    assert digest({"a": one, "b": two}) != digest({"a": two, "b": one})


def test_the_kind_of_the_container_does_not() -> None:
    @chex.dataclass
    class State:
        w: jax.Array
        opt: tuple[jax.Array, ...]

    parts = jnp.ones(2), jnp.zeros(3)
    state = State(w=jnp.arange(4.0), opt=parts)
    stored = {"opt": list(parts), "w": state.w}
    assert digest(state) == digest(stored) == digest(dataclasses.asdict(state))


@pytest.mark.parametrize("is_here", [True, False])
def test_arrays_on_several_devices_have_the_digest_of_one(
    is_here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where other hosts have devices of the mesh; `test_hosts.py` has real ones.
    monkeypatch.setattr(digests, "_is_here", lambda leaf: is_here or not hasattr(leaf, "devices"))
    mesh = jax.make_mesh((4,), ("data",))
    shared = TREE | {
        "w": jax.device_put(TREE["w"], NamedSharding(mesh, PartitionSpec("data"))),
        "half": jax.device_put(TREE["half"], NamedSharding(mesh, PartitionSpec("data", None))),
        "step": jax.device_put(TREE["step"], NamedSharding(mesh, PartitionSpec())),
    }
    assert digest(shared) == digest(TREE)
