"""A file is written whole or not at all."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from dermagan_jax import files
from dermagan_jax.errors import DermaganError


def test_takes_the_place_of_the_old_file_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with files.replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def _write_half(path: Path) -> None:
    with files.replacing(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError


def test_an_error_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        _write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_with_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    full = r"a\.txt: cannot be written \(No space left.*choose a writable folder with space"
    with pytest.raises(DermaganError, match=full), files.replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"
    with pytest.raises(DermaganError, match="No such file"):
        files.write_json(tmp_path / "none" / "a.json", {})


def test_what_a_killed_call_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with files.replacing(path) as partial:
        name = partial.name
        partial.write_text("{}")
    (tmp_path / name).write_text('{"half": ')
    files.write_json(path, {"b": 1, "a": [2]})
    assert list(tmp_path.iterdir()) == [path]
    assert json.loads(path.read_text()) == {"a": [2], "b": 1}
    assert path.read_text() == '{\n  "a": [\n    2\n  ],\n  "b": 1\n}\n'


def test_a_folder_is_one_processs_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    with files.held(folder, doing="evaluating", option="--here"):
        busy = r"out: another process is evaluating here; wait for it, or name another --here"
        with (
            pytest.raises(DermaganError, match=busy),
            files.held(folder, doing="evaluating", option="--here"),
        ):
            pass
    with files.held(folder, doing="evaluating"):
        assert files.is_empty(folder)


@pytest.mark.parametrize("damage", ["gone", "empty", "torn", "flipped", "other", "pickled"])
def test_damaged_arrays_are_named_with_the_remedy(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, right=np.arange(1000))
    whole = path.read_bytes()
    with files.opened_arrays(path, remedy="make it anew") as arrays:
        np.testing.assert_array_equal(arrays["right"], np.arange(1000))
    if damage == "gone":
        path.unlink()
    elif damage == "other":
        np.savez(path, left=np.arange(3))
    elif damage == "pickled":
        np.savez(path, right=np.array([{}], dtype=object))
    else:
        flipped = whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:]
        path.write_bytes({"empty": b"", "torn": whole[:-30], "flipped": flipped}[damage])
    with (
        pytest.raises(DermaganError, match=r"a\.npz: is damaged \(.*\); make it anew"),
        files.opened_arrays(path, remedy="make it anew") as arrays,
    ):
        arrays["right"]
