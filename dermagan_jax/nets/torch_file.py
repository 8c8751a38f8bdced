"""Reads PyTorch's weight files without running anything that a file may hold.

Such a file is made of pickles, and a pickle can name any function to be called. Here the opcodes
are only listed (`pickletools.genops` calls nothing) and followed by hand: the few that build a
dictionary of tensors are known, all others are refused.
"""

from __future__ import annotations

import dataclasses
import math
import pickletools
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dermagan_jax.errors import DermaganError

# How a file of PyTorch before 1.6 begins: two pickles, a magic number and a version.
_MAGIC_NUMBER, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {"torch FloatStorage": "<f4", "torch LongStorage": "<i8"}
_NEW_DICT, _NEW_TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MARK = object()


class _RefusedError(Exception):
    """What in a file is no part of a dictionary of tensors."""


@dataclasses.dataclass(frozen=True)
class _Name:
    """A name that the file would have Python look up."""

    text: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A block of numbers in the file."""

    dtype: str
    key: str
    size: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides count numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a weight file in the format of PyTorch before 1.6.

    Args:
      path: a file of `torch.save(module.state_dict(), path)`: float32 and int64 tensors by name.

    Returns:
      Arrays by name, in PyTorch's layouts (kernels [out, in, height, width]).

    Raises:
      DermaganError: when it is missing, damaged, of another format, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            if (_build(file), _build(file)) != (_MAGIC_NUMBER, _VERSION):
                raise _RefusedError("it is of another format")
            _build(file)  # The sizes of C's number types where it was written.
            tensors, keys = _build(file), _build(file)
            storages = _read_storages(file, tensors, keys)
        return {name: _to_array(tensor, storages) for name, tensor in tensors.items()}
    except OSError as error:
        raise DermaganError(f"{path}: cannot be read ({error.strerror}); name a file") from error
    # MemoryError: a damaged length asks for more bytes than there are addresses.
    except (_RefusedError, ValueError, LookupError, TypeError, struct.error, MemoryError) as error:
        raise DermaganError(
            f"{path}: is no file of weights that is safe to read ({error}); name a state dict of "
            "float32 tensors, as PyTorch before 1.6 wrote it"
        ) from error


def _build(file: BinaryIO) -> Any:
    """Returns what the pickle that starts here builds of plain values and tensors."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO":
                pass
            case "STOP":
                return stack.pop()
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_CONSTANTS[opcode.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(_pop(stack, int(opcode.name[-1]))))
            case "MARK":
                stack.append(_MARK)
            case "TUPLE":
                stack.append(tuple(_pop_marked(stack)))
            case "APPEND" | "APPENDS":
                values = _pop_marked(stack) if opcode.name == "APPENDS" else _pop(stack, 1)
                list.extend(stack[-1], values)
            case "SETITEM" | "SETITEMS":
                items = _pop_marked(stack) if opcode.name == "SETITEMS" else _pop(stack, 2)
                dict.update(stack[-1], zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_Name(str(argument)))
            case "BINPERSID":
                stack.append(_make_storage(stack.pop()))
            case "REDUCE":
                stack.append(_call(*_pop(stack, 2)))
            case "BUILD":
                stack.pop()  # PyTorch's notes on versions, which no tensor needs.
            case name:
                raise _RefusedError(f"it uses the pickle opcode {name}")
    raise _RefusedError("it is cut off")


def _pop(stack: list[Any], count: int) -> list[Any]:
    values = stack[-count:]
    del stack[-count:]
    return values


def _pop_marked(stack: list[Any]) -> list[Any]:
    values: list[Any] = []
    while (value := stack.pop()) is not _MARK:
        values.append(value)
    return values[::-1]


def _make_storage(identity: Any) -> _Storage:
    match identity:
        case ("storage", _Name(kind), str(key), "cpu", int(size), None) if kind in _DTYPES:
            return _Storage(_DTYPES[kind], key, size)
    raise _RefusedError(f"it refers to {str(identity)[:80]}")


def _call(function: Any, arguments: Any) -> Any:
    match function, arguments:
        case _Name(text), () if text == _NEW_DICT:
            return {}
        case (
            _Name(text),
            (_Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), {}),
        ) if text == _NEW_TENSOR:
            return _Tensor(storage, offset, shape, strides)
    raise _RefusedError(f"it calls {str(function)[:80]}")


def _read_storages(file: BinaryIO, tensors: Any, keys: Any) -> dict[_Storage, np.ndarray]:
    """Reads the blocks that follow the pickles, in the order of `keys`."""
    if type(tensors) is not dict or not all(type(t) is _Tensor for t in tensors.values()):
        raise _RefusedError("it holds something else than tensors by name")
    by_key = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    rest, place, blocks = file.read(), 0, {}
    for key in keys:
        storage = by_key[key]
        if struct.unpack_from("<q", rest, place) != (storage.size,):
            raise _RefusedError(f"block {key} has another size than its tensors say")
        blocks[storage] = np.frombuffer(rest, storage.dtype, storage.size, place + 8)
        place += 8 + blocks[storage].nbytes
    return blocks


def _to_array(tensor: _Tensor, storages: dict[_Storage, np.ndarray]) -> np.ndarray:
    """Returns a tensor's numbers, or refuses one that reaches outside its block."""
    if any(number < 0 for number in (*tensor.shape, *tensor.strides, tensor.offset)):
        raise _RefusedError("a tensor has a negative size or stride")
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((side - 1) * stride for side, stride in steps)
    # The second condition bounds what a stride of 0 could repeat.
    if last >= tensor.storage.size or math.prod(tensor.shape) > tensor.storage.size:
        raise _RefusedError("a tensor reaches outside its block")
    block = storages[tensor.storage]
    strides = [stride * block.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(block[tensor.offset :], tensor.shape, strides)
    return view.copy()
