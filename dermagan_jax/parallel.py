"""Compiling pure steps for one device or many, and for many runs side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dermagan_jax.errors import DermaganError
from dermagan_jax.state import Metrics

Step = Callable[..., tuple[Any, Metrics]]
Steps = Callable[..., tuple[Any, Metrics]]
ManySteps = Callable[..., tuple[list[Any], list[Metrics]]]
KeyOf = Callable[[jax.Array, jax.Array], jax.Array]

DATA_AXIS = "data"


def make_mesh(batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of one axis, `data`, over all devices.

    Args:
      batch_size: images of one batch, which the devices share equally.
      devices: the devices, or None for all there are.

    Raises:
      DermaganError: when the batch does not divide by the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if batch_size % len(devices):
        down = batch_size // len(devices) * len(devices)
        nearest = [size for size in (down, down + len(devices)) if size]
        raise DermaganError(
            f"batch_size is {batch_size}, which {len(devices)} devices cannot share equally; "
            f"set it to {' or '.join(map(str, nearest))}"
        )
    return jax.make_mesh((len(devices),), (DATA_AXIS,), (AxisType.Auto,), devices=devices)


def one_device_a_core(num_runs: int) -> None:
    """Makes each CPU core a device of its own, as far as there are runs for them.

    Two small networks on a core each train faster than one after the other on both. It must be
    called before JAX is first used; accelerators stay as they are.
    """
    # Where the system can hold a process to some of its cores, only these count.
    held = getattr(os, "sched_getaffinity", None)
    cores = len(held(0)) if held else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", min(num_runs, cores))


def share_devices(num_runs: int, batch_size: int) -> list[Mesh]:
    """Deals the devices out to runs that have nothing to do with each other.

    Args:
      num_runs: how many there are.
      batch_size: images of a batch of each.

    Returns:
      The mesh of each run: its share of the devices, or where there are fewer devices than runs,
      the one that it shares with others. Devices that cannot be shared equally stay idle.

    Raises:
      DermaganError: see `make_mesh`.
    """
    devices = jax.devices()
    count = min(num_runs, len(devices))
    size = len(devices) // count
    meshes = [make_mesh(batch_size, devices[at * size : (at + 1) * size]) for at in range(count)]
    return [meshes[run % count] for run in range(num_runs)]


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places a copy on every device, as `compile_steps` returns it, so that it compiles once."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def compile_steps(step: Step, key_of: KeyOf, mesh: Mesh, *, batch_axis: int = 0) -> Steps:
    """Compiles many steps into one call by `jit`, each batch sharded and all else replicated.

    BatchNorm and means then run over the global batch by themselves. The state is donated. The
    loop's bounds are arguments of the program, so that a step computes the same however many there
    are in a call.

    Args:
      step: a pure `step(state, batch, key)` without `axis_name`.
      key_of: gives the key of a step by the run's key and the step's number, from 1.
      mesh: from `make_mesh`.
      batch_axis: the axis of a batch's arrays that counts images; 1 behind a class axis.

    Returns:
      A function `(key, state, batches, base, start, stop)`: the run's key, the state, K batches
      with a leading axis, the number of steps done before the first of them, and the first and the
      end of those to use. It returns the state after, and metrics [K, ...], 0 where a batch was not
      used. The key is an argument, so that runs of other seeds find the program compiled.
    """

    def steps(
        key: jax.Array, state: Any, batches: Any, base: Any, start: Any, stop: Any
    ) -> tuple[Any, Metrics]:
        # Traced once for both its uses below: tracing is most of a warm start. Inlined, so that the
        # program stays what it is without.
        @partial(jax.jit, inline=True)
        def one(index: jax.Array, state: Any) -> tuple[Any, Metrics]:
            batch = jax.tree.map(lambda leaf: leaf[index], batches)
            return step(state, batch, key_of(key, base + index + 1))

        def body(index: jax.Array, carried: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
            state, rows = carried
            state, metrics = one(index, state)
            return state, jax.tree.map(lambda row, new: row.at[index].set(new), rows, metrics)

        _, metrics = jax.eval_shape(one, start, state)
        size = len(jax.tree.leaves(batches)[0])
        rows = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), metrics)
        return lax.fori_loop(start, stop, body, (state, rows))

    replicated = NamedSharding(mesh, PartitionSpec())
    sharded = NamedSharding(mesh, PartitionSpec(*[None] * (batch_axis + 1), DATA_AXIS))
    return jax.jit(
        steps,
        in_shardings=(replicated, replicated, sharded, replicated, replicated, replicated),
        out_shardings=(replicated, replicated),
        donate_argnums=1,
    )


def pmap_step(step: Step) -> Step:
    """Compiles `step(state, batch, key)`, given `axis_name="data"`, by `pmap`.

    State and key are neither stacked nor split; the batch has a leading device axis.
    """
    return jax.pmap(step, DATA_AXIS, in_axes=(None, 0, None), out_axes=None)


def map_over_first_axis(step: Step) -> Step:
    """Maps a step over the leading axis of its state, batch and keys, in one program.

    CPUs run the entries in turn, since there a mapped convolution turns into a slow grouped one;
    accelerators run them at once. An only entry runs as if it had no such axis.
    """

    def in_turn(*operands: Any) -> tuple[Any, Metrics]:
        return lax.map(lambda each: step(*each), operands)

    def mapped(*operands: Any) -> tuple[Any, Metrics]:
        if len(jax.tree.leaves(operands)[0]) == 1:
            (only,) = unstack(operands)
            return jax.tree.map(lambda leaf: leaf[None], step(*only))
        return lax.platform_dependent(*operands, cpu=in_turn, default=jax.vmap(step))

    return mapped


def stack(trees: Sequence[Any], mesh: Mesh) -> Any:
    """Places trees on a mesh, as one whose leaves have a leading axis."""
    return replicate(_stacked(replicate(list(trees), mesh)), mesh)


@jax.jit
def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any) -> list[Any]:
    """Takes a tree whose leaves have a leading axis apart."""
    count = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda leaf, at=at: leaf[at], tree) for at in range(count)]


def side_by_side(lanes: Sequence[tuple[Steps, slice]]) -> ManySteps:
    """Joins compiled steps of different devices into one call; none waits for another.

    Args:
      lanes: for each lane a function `(state, batches, base, start, stop)`, and which entries of
        the batches' second axis it takes.

    Returns:
      The same function of a list of states, one a lane; so are the states and metrics it returns.
    """

    def steps(states: Sequence[Any], batches: Any, *bounds: int) -> tuple[list[Any], list[Metrics]]:
        results = [
            lane(state, jax.tree.map(lambda leaf, own=own: leaf[:, own], batches), *bounds)
            for (lane, own), state in zip(lanes, states, strict=True)
        ]
        return [state for state, _ in results], [metrics for _, metrics in results]

    return steps
