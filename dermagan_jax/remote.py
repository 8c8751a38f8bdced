"""Workdirs and data on object stores, `gs://` and `s3://`: a copy there, and the work here.

The program works in folders, since an object store can neither append nor rename. A mirror is a
copy of a workdir in a store: a list of its files, written last, and the files themselves. Whoever
reads it takes what the list names, so that a push that was cut off leaves the one before.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import fsspec

from dermagan_jax import files, workdir
from dermagan_jax.checkpoints import FOLDER
from dermagan_jax.errors import DermaganError

LIST = "mirror.json"
PUSH_SECS = 60.0
_SEPARATOR = "://"
# This machine's alone, or half-written.
_PASSING = (workdir.LOCK, ".tmp", workdir.DATA, ".orbax-checkpoint-tmp")

_logger = logging.getLogger("dermagan")


def is_remote(address: str) -> bool:
    """Whether an address is of a store, rather than a folder's path."""
    return _SEPARATOR in address


def fetch(address: str, folder: Path) -> None:
    """Copies what an address holds into a folder, as far as it is not there.

    Args:
      address: of a mirror, or of any folder, such as a prepared set.
      folder: new, empty, or of an earlier call.

    Raises:
      DermaganError: the store cannot be reached, or has no such folder.
    """
    try:
        store = _Store(address)
        for name, size in store.listed().items():
            target = folder / name
            if target.is_file() and target.stat().st_size == size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with files.replacing(target) as partial:
                partial.write_bytes(store.read(name))
    except DermaganError:  # The disk here, which has said so.
        raise
    # Each store's library has errors of its own.
    except Exception as error:
        raise _unreachable(address, error) from error


class _Store:
    """A folder in a store, files by their names in it."""

    def __init__(self, address: str) -> None:
        # Nothing is remembered: another machine may have written since.
        forgetful = {"use_listings_cache": False, "skip_instance_cache": True}
        self._system, self._root = fsspec.url_to_fs(address, **forgetful)

    def _place(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        return self._system.exists(self._place(name))

    def read(self, name: str) -> bytes:
        return self._system.cat_file(self._place(name))

    def write(self, name: str, content: bytes) -> None:
        place = self._place(name)
        self._system.makedirs(place.rpartition("/")[0], exist_ok=True)
        self._system.pipe_file(place, content)

    def remove(self, name: str) -> None:
        if self.exists(name):
            self._system.rm_file(self._place(name))

    def listed(self) -> dict[str, int]:
        """Returns the files of a mirror by its list, or of another folder by looking."""
        if self.exists(LIST):
            found = json.loads(self.read(LIST))["files"]
            return {name: size for name, size in found.items() if _is_inside(name)}
        start = len(self._place(""))
        files = self._system.find(self._root, detail=True)
        if not files:
            raise FileNotFoundError("there is nothing")
        return {place[start:]: about["size"] for place, about in files.items()}


def _is_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


class Mirror:
    """Keeps a copy of a workdir in a store up to date, from entry to exit, in a thread."""

    def __init__(self, address: str, run_folder: Path) -> None:
        """Fetches what the mirror holds, if the workdir is new.

        Raises:
          DermaganError: the store cannot be reached, or the mirror is ahead of the workdir.
        """
        self._address, self._workdir = address, run_folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_pushing, daemon=True)
        self._pushed: dict[str, tuple[int, int]] = {}
        try:
            store = _Store(address)
            there = store.listed() if store.exists(LIST) else {}
        except Exception as error:
            raise _unreachable(address, error) from error
        here = [str(path.relative_to(run_folder)) for path in _worth_keeping(run_folder)]
        if there and not here:
            _logger.info("fetching the workdir from %s", address)
            fetch(address, run_folder)
        elif _last_step(there) > _last_step(here):
            raise DermaganError(
                f"{address}: holds a later checkpoint (step {_last_step(there)}) than "
                f"{run_folder}; name a new --workdir to go on from there"
            )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self.push()

    def _keep_pushing(self) -> None:
        while not self._over.wait(PUSH_SECS):
            try:
                self.push()
            except DermaganError as error:
                # A store that is away for a while is no reason to stop training.
                _logger.warning("warning: %s", error)

    def push(self) -> None:
        """Brings the copy up to date: new files, then the list, then what is no longer listed goes.

        Raises:
          DermaganError: the store cannot be written; the copy is as it was.
        """
        try:
            store = _Store(self._address)
            found: dict[str, tuple[int, int]] = {}
            for path in _worth_keeping(self._workdir):
                name = str(path.relative_to(self._workdir))
                try:
                    status = path.stat()
                    stamp = (status.st_size, status.st_mtime_ns)
                    if self._pushed.get(name) != stamp:
                        content = path.read_bytes()
                        stamp = (len(content), status.st_mtime_ns)
                        store.write(name, content)
                except FileNotFoundError:  # A checkpoint whose time was over.
                    continue
                found[name] = stamp
            listed = {
                name: size
                for name, (size, _) in sorted(found.items())
                if (self._workdir / name).exists()
            }
            store.write(LIST, json.dumps({"files": listed}, indent=1).encode())
            for name in self._pushed.keys() - found.keys():
                store.remove(name)
            self._pushed = found
        except Exception as error:
            raise _unreachable(self._address, error) from error


def _worth_keeping(run_folder: Path) -> Iterator[Path]:
    # Orbax writes a checkpoint beside its place, under a name that says so.
    for path in sorted(run_folder.rglob("*")):
        parts = path.relative_to(run_folder).parts
        if path.is_file() and not any(each in part for part in parts for each in _PASSING):
            yield path


def _last_step(names: Iterable[str]) -> int:
    """Returns the last step that files of checkpoints are of; -1 where there is none."""
    found = [Path(name).parts for name in names]
    # Those of several seeds lie a folder deeper.
    steps = [parts[parts.index(FOLDER) + 1] for parts in found if FOLDER in parts[:-1]]
    return max((int(step) for step in steps if step.isdecimal()), default=-1)


def _unreachable(address: str, error: Exception) -> DermaganError:
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    return DermaganError(
        f"{address}: cannot be reached or written ({reason}); check the address and your "
        "credentials, and install the store's library: pip install 'dermagan-jax[cloud]'"
    )
