"""A number for the content of a tree of arrays, or of a document, by which to know it again.

The same for the same content, on however many devices or hosts it lies, since integers add up alike
in any order. It finds damage, not forgery.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_MASK = 0xFFFFFFFF  # Sums are modulo 2**32.


def digest(tree: Any) -> int:
    """Sums up a tree, on the host: a program of XLA's would take seconds to compile.

    Args:
      tree: arrays of real numbers or bools, of any shapes. Dicts, tuples and classes count alike
        where their keys, indices and fields have the same names. Where other hosts hold parts of
        an array, all must call this.

    Returns:
      An integer in [0, 2**32). One changed bit always changes it, random damage but for one time in
      four thousand million.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    total = sum(_salted_sum(path, leaf) for path, leaf in leaves if _is_here(leaf))
    shared = [_salted_sum(path, leaf) for path, leaf in leaves if not _is_here(leaf)]
    if shared:
        of_hosts = multihost_utils.process_allgather(np.uint32(sum(shared) & _MASK))
        total += int(of_hosts.sum(dtype=np.uint64))
    return total & _MASK


def digest_of_document(document: Any) -> int:
    """Sums up a document of JSON types, as it will be when it is read again.

    Returns:
      An integer in [0, 2**32).
    """
    return zlib.crc32(json.dumps(document, sort_keys=True).encode())


def _salted_sum(path: tuple[Any, ...], leaf: Any) -> int:
    """Sums up what this process is to count of an array, differently for each name."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    # Odd, so that a product with it loses no bit.
    salt = zlib.crc32(name.encode()) | 1
    return salt * sum(_sum_of_bits(part, start, np.shape(leaf)) for part, start in _parts(leaf))


def _is_here(leaf: Any) -> bool:
    """Whether this process has all of an array."""
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def _parts(leaf: Any) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Yields the parts of an array that this process is to count, and where each begins."""
    if _is_here(leaf):
        yield np.asarray(leaf), [0] * np.ndim(leaf)
        return
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            yield np.asarray(shard.data), [each.start or 0 for each in shard.index]


def _sum_of_bits(part: np.ndarray, start: list[int], shape: tuple[int, ...]) -> int:
    """Adds up a part's bits as integers, each times an odd number of its place in the whole."""
    width = min(part.dtype.itemsize, 4)  # Of eight bytes, two integers of four.
    bits = np.ascontiguousarray(part).reshape(*part.shape, 1).view(f"u{width}").astype(np.uint32)
    place: np.ndarray = np.zeros((), np.uint32)
    for first, count, size in zip(start, part.shape, shape, strict=True):
        along = np.arange(first, first + count, dtype=np.uint32)
        place = place[..., None] * np.uint32(size) + along
    pieces = bits.shape[-1]
    place = place[..., None] * np.uint32(pieces) + np.arange(pieces, dtype=np.uint32)
    return int((bits * (np.uint32(2) * place + np.uint32(1))).sum(dtype=np.uint32))
