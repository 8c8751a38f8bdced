"""Compiling pure steps for one device or many, and for many runs side by side.

A mesh has two axes. `data` shares the images of a batch out. `entry` shares out the entries of a
leading axis that state, batch and keys may have: the classes of a GAN a class.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dermagan_jax.errors import DermaganError
from dermagan_jax.state import Metrics

Step = Callable[..., tuple[Any, Metrics]]
Steps = Callable[..., tuple[Any, Metrics]]
ManySteps = Callable[..., tuple[list[Any], list[Metrics]]]
KeyOf = Callable[[jax.Array, jax.Array], jax.Array]

ENTRY_AXIS, DATA_AXIS = "entry", "data"


def read_mesh(text: str, entries: str) -> dict[str, int]:
    """Reads `config.mesh`, such as `data:4,class:2`.

    Args:
      text: what the user wrote; "" for the default.
      entries: what the user calls the entries that devices may share out, or "" where there are
        none.

    Returns:
      The number of devices along `ENTRY_AXIS` and `DATA_AXIS`, as far as given.

    Raises:
      DermaganError: it is not of that form.
    """
    known = {"data": DATA_AXIS} | ({entries: ENTRY_AXIS} if entries else {})
    sizes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, size = part.strip().partition(":")
        if name not in known or known[name] in sizes or not re.fullmatch("[1-9][0-9]{0,5}", size):
            example = ",".join(f"{name}:{2 * at}" for at, name in enumerate(known, 1))
            raise DermaganError(
                f"config.mesh is {text!r}; give a number of devices along "
                f"{' and '.join(known)}, such as {example}, or '' for the default"
            )
        sizes[known[name]] = int(size)
    return sizes


def make_mesh(
    batch_size: int,
    devices: Sequence[jax.Device] | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    num_entries: int = 1,
) -> Mesh:
    """Returns a mesh of the axes `entry` and `data` over all devices.

    By default, CPU devices beyond the most that can share a batch equally are left out: they stand
    for cores, which a program of fewer devices uses too.

    Args:
      batch_size: images of one batch, which the devices along `data` share equally.
      devices: the devices, or None for all there are, on all hosts.
      sizes: from `read_mesh`; by default the devices lie along `data`.
      num_entries: entries of the leading axis, which those along `entry` share equally.

    Raises:
      DermaganError: when something does not divide.
    """
    devices = jax.devices() if devices is None else devices
    sizes = sizes or {}
    if not sizes:
        devices = _that_share_equally(devices, batch_size)
    along_entry = sizes.get(ENTRY_AXIS, 1)
    along_data = sizes.get(DATA_AXIS, max(1, len(devices) // along_entry))
    if along_entry * along_data != len(devices):
        raise DermaganError(
            f"config.mesh takes {along_entry * along_data} devices, and there are {len(devices)}; "
            "give numbers whose product that is, or '' for the default"
        )
    if num_entries % along_entry:
        raise DermaganError(
            f"config.mesh shares {num_entries} classes among {along_entry} devices; give a number "
            "that divides them"
        )
    if batch_size % along_data:
        down = batch_size // along_data * along_data
        nearest = [size for size in (down, down + along_data) if size]
        raise DermaganError(
            f"batch_size is {batch_size}, which {along_data} devices cannot share equally; "
            f"set it to {' or '.join(map(str, nearest))}"
        )
    auto = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((along_entry, along_data), (ENTRY_AXIS, DATA_AXIS), auto, devices=devices)


def _that_share_equally(devices: Sequence[jax.Device], batch_size: int) -> Sequence[jax.Device]:
    """Leaves out CPU devices among which a batch cannot be shared; no accelerator, and no host."""
    if devices[0].platform != "cpu" or jax.process_count() > 1:
        return devices
    counts = range(1, len(devices) + 1)
    return devices[: max(count for count in counts if batch_size % count == 0)]


def one_device_a_core(num_runs: int) -> None:
    """Makes each CPU core a device of its own, as far as there are runs for them.

    Two small networks on a core each train faster than one after the other on both. It must be
    called before JAX is first used; accelerators stay as they are.
    """
    # Where the system can hold a process to some of its cores, only these count.
    held = getattr(os, "sched_getaffinity", None)
    cores = len(held(0)) if held else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", min(num_runs, cores))


def share_devices(
    num_runs: int, batch_size: int, *, sizes: Mapping[str, int] | None = None
) -> list[Mesh]:
    """Deals the devices out to runs that have nothing to do with each other.

    Args:
      num_runs: how many there are.
      batch_size: images of a batch of each.
      sizes: from `read_mesh`; by default as many shares as there are runs or devices.

    Returns:
      The mesh of each run: its share of the devices, or where there are fewer devices than runs,
      the one that it shares with others. Devices that cannot be shared equally stay idle.

    Raises:
      DermaganError: see `make_mesh`.
    """
    devices = jax.devices()
    sizes = sizes or {}
    size = sizes.get(DATA_AXIS, 0)
    count = sizes.get(ENTRY_AXIS) or min(num_runs, len(devices) // (size or 1)) or 1
    size = size or len(devices) // count
    if size * count > len(devices) or not size:
        raise DermaganError(
            f"config.mesh takes {max(size, 1) * count} devices, and there are {len(devices)}; give "
            "smaller numbers, or '' for the default"
        )
    if jax.process_count() > 1 and size * count < len(devices):
        raise DermaganError(
            f"config.mesh takes {size * count} devices, and the processes have {len(devices)}, all "
            "of which must take part; give numbers whose product that is, or '' for the default"
        )
    asked = {DATA_AXIS: size} if DATA_AXIS in sizes else {}
    meshes = [
        make_mesh(batch_size, devices[at * size : (at + 1) * size], sizes=asked)
        for at in range(count)
    ]
    return [meshes[run % count] for run in range(num_runs)]


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(mesh: Mesh, *, has_entries: bool) -> NamedSharding:
    """Returns the sharding of a state whose leaves may have a leading axis of entries."""
    shares = has_entries and mesh.shape[ENTRY_AXIS] > 1
    return NamedSharding(mesh, PartitionSpec(ENTRY_AXIS) if shares else PartitionSpec())


def batch_sharding(mesh: Mesh, *, batch_axis: int) -> NamedSharding:
    """Returns the sharding of super-batches: [K, B, ...], or [K, entries, B, ...] for axis 1."""
    shares = batch_axis == 1 and mesh.shape[ENTRY_AXIS] > 1
    before = [None, *([ENTRY_AXIS if shares else None] * batch_axis)]
    return NamedSharding(mesh, PartitionSpec(*before, DATA_AXIS))


def own_part(mesh: Mesh, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Returns which entries, and which images of each, the devices of this process work on.

    Args:
      mesh: from `make_mesh`.
      shape: the number of entries and of images of each.
    """
    entry = ENTRY_AXIS if mesh.shape[ENTRY_AXIS] > 1 else None
    sharding = NamedSharding(mesh, PartitionSpec(entry, DATA_AXIS))
    places = sharding.addressable_devices_indices_map(shape).values()
    bounds = [
        [each.indices(size)[:2] for each, size in zip(place, shape, strict=True)]
        for place in places
        if place is not None
    ]
    low, high = np.min(bounds, axis=0)[:, 0], np.max(bounds, axis=0)[:, 1]
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def join_parts(
    batches: Iterable[Any], mesh: Mesh, *, batch_axis: int, shape: tuple[int, int]
) -> Iterator[Any]:
    """Makes super-batches of which each process has its own part into ones of all processes.

    Args:
      batches: whose arrays hold the entries and images of `own_part`.
      mesh: from `make_mesh`.
      batch_axis: see `compile_steps`.
      shape: as for `own_part`.

    Yields:
      The batches, ready for `compile_steps`; the very same ones where there is one process.
    """
    if jax.process_count() == 1:
        yield from batches
        return
    sharding = batch_sharding(mesh, batch_axis=batch_axis)
    of_entries, of_images = own_part(mesh, shape)
    first = [of_entries.start, of_images.start] if batch_axis else [of_images.start]
    whole = shape if batch_axis else shape[1:]

    after = 1 + len(whole)

    def joined(part: np.ndarray) -> jax.Array:
        def cut(index: Any) -> np.ndarray:
            own = [
                slice(at.indices(size)[0] - low, at.indices(size)[1] - low)
                for at, size, low in zip(index[1:after], whole, first, strict=True)
            ]
            return part[(index[0], *own)]

        shape = (len(part), *whole, *part.shape[after:])
        return jax.make_array_from_callback(shape, sharding, cut)

    for batch in batches:
        yield jax.tree.map(joined, batch)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places a copy on every device, as `compile_steps` returns it, so that it compiles once."""
    return jax.device_put(tree, replicated(mesh))


def compile_steps(
    step: Step, key_of: KeyOf, mesh: Mesh, *, batch_axis: int = 0, loops_once: bool = True
) -> Steps:
    """Compiles many steps into one call by `jit`, batches sharded, and states by their entries.

    BatchNorm and means then run over the global batch by themselves. The state is donated. The
    loop's bounds are arguments of the program, so that a step computes the same however many there
    are in a call.

    Args:
      step: a pure `step(state, batch, key)` without `axis_name`.
      key_of: gives the key of a step by the run's key and the step's number, from 1.
      mesh: from `make_mesh`.
      batch_axis: the axis of a batch's arrays that counts images; 1 behind an axis of entries.
      loops_once: whether a call of one batch has a loop too. XLA's own convolutions take up to
        twenty times as long in a loop on a CPU, those of `nets.stride_one` and `stride_two` do not.

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

        size = len(jax.tree.leaves(batches)[0])
        if size == 1 and not loops_once:
            state, metrics = one(start, state)
            return state, jax.tree.map(lambda new: new[None], metrics)
        _, metrics = jax.eval_shape(one, start, state)
        rows = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), metrics)
        return lax.fori_loop(start, stop, body, (state, rows))

    whole = replicated(mesh)
    own = state_sharding(mesh, has_entries=batch_axis == 1)
    batches = batch_sharding(mesh, batch_axis=batch_axis)
    return jax.jit(
        steps,
        in_shardings=(whole, own, batches, whole, whole, whole),
        out_shardings=(own, whole),
        donate_argnums=1,
    )


def pmap_step(step: Step) -> Step:
    """Compiles `step(state, batch, key)`, given `axis_name="data"`, by `pmap`.

    State and key are neither stacked nor split; the batch has a leading device axis.
    """
    return jax.pmap(step, DATA_AXIS, in_axes=(None, 0, None), out_axes=None)


def map_over_first_axis(step: Step, mesh: Mesh | None = None) -> Step:
    """Maps a step over the leading axis of its state, batch and keys, in one program.

    CPUs run the entries in turn, since there a mapped convolution turns into a slow grouped one;
    accelerators run them at once. An only entry runs as if it had no such axis. On a mesh whose
    `entry` axis shares them out, each device maps over its own.
    """

    def in_turn(*operands: Any) -> tuple[Any, Metrics]:
        return lax.map(lambda each: step(*each), operands)

    def mapped(*operands: Any) -> tuple[Any, Metrics]:
        if len(jax.tree.leaves(operands)[0]) == 1:
            (only,) = unstack(operands)
            return jax.tree.map(lambda leaf: leaf[None], step(*only))
        return lax.platform_dependent(*operands, cpu=in_turn, default=jax.vmap(step))

    if mesh is None or mesh.shape[ENTRY_AXIS] == 1:
        return mapped
    own = PartitionSpec(ENTRY_AXIS)
    # The axis `data` stays the compiler's, as without entries.
    return jax.shard_map(
        mapped,
        mesh=mesh,
        in_specs=own,
        out_specs=own,
        axis_names={ENTRY_AXIS},
        check_vma=False,
    )


def stack(trees: Sequence[Any], mesh: Mesh) -> Any:
    """Places trees on a mesh, as one whose leaves have a leading axis."""
    return jax.jit(_stacked, out_shardings=replicated(mesh))(list(trees))


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
