"""Writing a file at once: no reader, and no kill half-way, meets part of one."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dermagan_jax.errors import DermaganError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary file, which takes the place of `path` when the block ends without an error.

    Args:
      path: the file to write or replace; its folder must exist.

    Yields:
      The file to write: in the same folder, because a rename is atomic only within one file system,
      and always of the same name, so that the next call writes over what a killed one left.

    Raises:
      DermaganError: when it cannot be written; `path` is as it was.
    """
    partial = path.with_name(f".{path.name}.tmp")
    try:
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DermaganError(
            f"{path}: cannot be written ({error.strerror}); choose a writable folder with space"
        ) from error


LOCK = ".lock"
"""The name of the file by which a process keeps others out of a folder: see `locked`."""


def is_partial(name: str) -> bool:
    """Whether a file's name is that of `replacing`'s, which a kill may leave in any folder."""
    return name.startswith(".") and name.endswith(".tmp")


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but a lock and what a kill left half-written."""
    return all(path.name == LOCK or is_partial(path.name) for path in folder.iterdir())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Locks a file for this process, until the block or the process ends, however it does.

    Args:
      path: the file, which is made and stays; on a file system that knows locks.

    Yields:
      Whether it is ours; False while another process has it.

    Raises:
      DermaganError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise DermaganError(
            f"{path}: cannot be written ({error.strerror}); choose a writable folder with space"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            raise DermaganError(
                f"{path}: cannot be locked ({error.strerror}); choose a folder on a file system "
                "that knows locks"
            ) from error
        yield True


@contextlib.contextmanager
def held(folder: Path, *, doing: str, option: str = "--out") -> Iterator[None]:
    """Keeps other processes out of a folder, which is made, until the block or the process ends.

    Args:
      folder: where this process writes.
      doing: what it does there, for the error.
      option: by which the user named the folder.

    Raises:
      DermaganError: another process has it, or it cannot be written.
    """
    with locked(folder / LOCK) as is_free:
        if not is_free:
            raise DermaganError(
                f"{folder}: another process is {doing} here; wait for it, or name another {option}"
            )
        yield


@functools.cache
def sha256(path: Path) -> str:
    """Hashes a file's contents, once in a process.

    Raises:
      DermaganError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DermaganError(
            f"{path}: cannot be read ({error.strerror}); name a file that can be"
        ) from error


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON document at once, indented, its keys sorted.

    It reaches the disk before it takes its place, so that no power cut leaves an empty one.
    """
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


Fields = Mapping[str, type | tuple[type, ...]]


def read_json(path: Path, fields: Fields, *, remedy: str) -> dict[str, Any]:
    """Reads a JSON document that this program wrote.

    Args:
      path: the file.
      fields: the type of each field that it must have; `data.kind` is the field `kind` of `data`.
      remedy: ends the error's message.

    Raises:
      DermaganError: it cannot be read, or a field is missing or of another type.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DermaganError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise DermaganError(f"{path}: is damaged ({error}); {remedy}") from error
    require_fields(document, fields, path, remedy=remedy)
    return document


def require_fields(document: Any, fields: Fields, source: object, *, remedy: str) -> None:
    """Refuses a document in which a field is missing or of another type: see `read_json`.

    Raises:
      DermaganError: naming `source` and the field.
    """
    for name, kind in {"": dict, **fields}.items():
        value = document
        for part in filter(None, name.split(".")):
            value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
        # JSON's true and false are no numbers here, though they are in Python.
        mistaken = isinstance(value, bool) and kind in (int, float)
        if mistaken or not isinstance(value, kind):
            what = f"{name} is {'missing' if value is _MISSING else 'of another kind'}"
            raise DermaganError(
                f"{source}: is damaged ({what if name else 'no JSON object'}); {remedy}"
            )


@contextlib.contextmanager
def opened_arrays(path: Path, *, remedy: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Opens a file of arrays that this program wrote by `np.savez`; nothing in it is unpickled.

    Args:
      path: the file.
      remedy: ends the error's message.

    Yields:
      The arrays by name, each read when it is asked for.

    Raises:
      DermaganError: it, or an array that the block asks for, cannot be read: a power cut or a bad
        disk may have damaged it.
    """
    try:
        # NumPy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    # zipfile raises the last three: for what it finds, does not know, and takes for encrypted.
    except (
        *(OSError, ValueError, KeyError, EOFError, zlib.error),
        *(zipfile.BadZipFile, NotImplementedError, RuntimeError),
    ) as error:
        raise DermaganError(f"{path}: is damaged ({error}); {remedy}") from error


_MISSING = object()
