"""A file is written whole or not at all."""

from __future__ import annotations

import errno
import json
from pathlib import Path

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
