"""Weight files, put together by hand: what they hold is read, and nothing in them is run."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dermagan_jax.errors import DermaganError
from dermagan_jax.nets.torch_file import read_state_dict

HEAD = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"a": 4}, 2)
NEW_DICT = b"ccollections\nOrderedDict\n)R"


def value(plain: Any) -> bytes:
    """The opcodes that push a plain value."""
    return pickle.dumps(plain, 2)[2:-1]


def tensor(
    shape: Any = (2, 3), strides: Any = (3, 1), *, key="k", size=6, offset=0, kind=b"FloatStorage"
) -> bytes:
    """The opcodes that push a tensor, as PyTorch writes them."""
    storage = b"(" + value("storage") + b"ctorch\n" + kind + b"\n" + value(key) + value("cpu")
    storage += value(size) + b"NtQ"
    arguments = b"(" + storage + value(offset) + value(shape) + value(strides) + b"\x89"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + NEW_DICT + b"tR"


def write(path: Path, items: dict[str, bytes], blocks: dict[str, np.ndarray]) -> Path:
    body = b"\x80\x02" + NEW_DICT
    for name, pushed in items.items():
        body += value(name) + pushed + b"s"
    body += b"}" + value("_metadata") + NEW_DICT + b"sb."
    data = b"".join(struct.pack("<q", each.size) + each.tobytes() for each in blocks.values())
    path.write_bytes(HEAD + body + pickle.dumps(list(blocks), 2) + data)
    return path


def test_tensors_are_read_in_their_own_layout(tmp_path):
    numbers = np.arange(6, dtype="<f4")
    whole = np.array([7], "<i8")
    items = {
        "rows": tensor(),
        "columns": tensor((3, 2), (1, 3)),
        "part": tensor((2,), (2,), offset=3),
        "count": tensor((), (), key="n", size=1, kind=b"LongStorage"),
    }
    read = read_state_dict(write(tmp_path / "w.pth", items, {"n": whole, "k": numbers}))
    rows = numbers.reshape(2, 3)
    expected = {"rows": rows, "columns": rows.T, "part": numbers[[3, 5]], "count": np.array(7)}
    assert list(read) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


class Attack:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.command = f"touch {path}"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize("place", ["whole file", "a tensor", "the keys"])
def test_nothing_in_a_file_is_run(place, protocol, tmp_path):
    mark = tmp_path / "was_here"
    attack = pickle.dumps(Attack(mark), protocol)
    function, arguments = Attack(mark).__reduce__()
    function(*arguments)
    assert mark.exists(), "the attack itself does nothing"
    mark.unlink()
    path = tmp_path / "evil.pth"
    if place == "whole file":
        path.write_bytes(attack)
    elif place == "a tensor":
        write(path, {"w": attack[2 if protocol > 1 else 0 : -1]}, {"k": np.zeros(6, "<f4")})
    else:
        path.write_bytes(HEAD + b"\x80\x02" + NEW_DICT + b"." + attack)
    with pytest.raises(DermaganError, match=r"evil\.pth: is no file of weights that is safe"):
        read_state_dict(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("pushed", "reason"),
    [
        (tensor((2, 4), (3, 1)), "outside its block"),
        (tensor(offset=1), "outside its block"),
        (tensor((1000, 1000), (0, 0)), "outside its block"),
        (tensor((-2, 3)), "negative"),
        (tensor((2, 3), (-1, 1)), "negative"),
        (tensor((2, 3), (1,)), "shorter"),
        (tensor(("2", 3)), "not supported"),
        (tensor(size=5), "outside its block|another size"),
        (tensor((2,), (1,), size=5), "another size"),
        (tensor(size=7), "another size"),
        (tensor(kind=b"HalfStorage"), "HalfStorage"),
        (tensor(key="other"), "'k'"),
        (b"cos\nsystem\n(" + value("true") + b"tR", "it calls _Name.text='os system'"),
        (b"cbuiltins\neval\n", "something else than tensors"),
        (value("text"), "something else than tensors"),
        (b"\x8c\x01xN\x93", "opcode SHORT_BINUNICODE"),
        (b"(i__main__\nA\n", "opcode INST"),
        (b"ca\nb\n)\x81", "opcode NEWOBJ"),
        (b"\x82\x01", "opcode EXT1"),
    ],
)
def test_what_is_no_tensor_is_refused(pushed, reason, tmp_path):
    path = write(tmp_path / "w.pth", {"w": pushed}, {"k": np.zeros(6, "<f4")})
    with pytest.raises(DermaganError, match=reason):
        read_state_dict(path)


def test_a_damaged_or_missing_file_is_named(tmp_path):
    path = write(tmp_path / "w.pth", {"w": tensor()}, {"k": np.zeros(6, "<f4")})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DermaganError, match=r"w\.pth: is no file of weights"):
            read_state_dict(path)
    path.write_bytes(b"PK\x03\x04" + whole)
    with pytest.raises(DermaganError, match="is no file of weights"):
        read_state_dict(path)
    with pytest.raises(DermaganError, match=r"none\.pth: cannot be read"):
        read_state_dict(tmp_path / "none.pth")
