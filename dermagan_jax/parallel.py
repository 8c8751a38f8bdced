"""Compiling pure steps for one device or many, and mapping them over classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dermagan_jax.errors import DermaganError
from dermagan_jax.state import Metrics

Step = Callable[..., tuple[Any, Metrics]]
Steps = Callable[..., tuple[Any, Metrics]]
KeyOf = Callable[[jax.Array], jax.Array]

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
      key_of: gives the key of a step by its number, from 1.
      mesh: from `make_mesh`.
      batch_axis: the axis of a batch's arrays that counts images; 1 behind a class axis.

    Returns:
      A function `(state, batches, base, start, stop)`: the state, K batches with a leading axis,
      the number of steps done before the first of them, and the first and the end of those to use.
      It returns the state after, and metrics [K, ...], 0 where a batch was not used.
    """

    def steps(state: Any, batches: Any, base: Any, start: Any, stop: Any) -> tuple[Any, Metrics]:
        def one(index: jax.Array, state: Any) -> tuple[Any, Metrics]:
            batch = jax.tree.map(lambda leaf: leaf[index], batches)
            return step(state, batch, key_of(base + index + 1))

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
        in_shardings=(replicated, sharded, replicated, replicated, replicated),
        out_shardings=(replicated, replicated),
        donate_argnums=0,
    )


def pmap_step(step: Step) -> Step:
    """Compiles `step(state, batch, key)`, given `axis_name="data"`, by `pmap`.

    State and key are neither stacked nor split; the batch has a leading device axis.
    """
    return jax.pmap(step, DATA_AXIS, in_axes=(None, 0, None), out_axes=None)


def map_over_classes(step: Step) -> Step:
    """Maps a step over the leading class axis of its state, batch and keys, in one program.

    CPUs run the classes in turn, since there a mapped convolution turns into a slow grouped one;
    accelerators run them at once.
    """

    def in_turn(*operands: Any) -> tuple[Any, Metrics]:
        return lax.map(lambda each: step(*each), operands)

    def mapped(*operands: Any) -> tuple[Any, Metrics]:
        return lax.platform_dependent(*operands, cpu=in_turn, default=jax.vmap(step))

    return mapped
