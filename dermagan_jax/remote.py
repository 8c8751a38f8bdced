"""Workdirs and data on object stores, `gs://` and `s3://`: a copy there, and the work here.

The program works in folders, since an object store can neither append nor rename. A mirror is a
copy of a workdir in a store: a list of its files, written last, and the files themselves. Whoever
reads it takes what the list names, so that a push that was cut off leaves the one before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import fsspec

from dermagan_jax import files, workdir
from dermagan_jax.checkpoints import FOLDER
from dermagan_jax.errors import DermaganError

LIST = "mirror.json"
UNFINISHED = ".fetching"  # In a workdir that is being fetched.
PUSH_SECS = 60.0
_PASSES = 5
_SEPARATOR = "://"
# This machine's alone, or half-written.
_PASSING = (files.LOCK, ".tmp", workdir.DATA, ".orbax-checkpoint-tmp", UNFINISHED)

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
      DermaganError: the store cannot be reached, or has no such folder, or names a file that would
        lie outside.
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
        """Returns the files of a mirror by its list, or of another folder by looking.

        Raises:
          DermaganError: one of them would lie outside the folder that they are fetched into.
        """
        if self.exists(LIST):
            found = json.loads(self.read(LIST))["files"]
        else:
            start = len(self._place(""))
            files = self._system.find(self._root, detail=True)
            found = {place[start:]: about["size"] for place, about in files.items()}
        if not found:
            raise FileNotFoundError("there is nothing")
        for name in found:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise DermaganError(
                    f"{self._root}: names {name}, which lies outside the folder; look who wrote it"
                )
        return found


class Mirror:
    """Keeps a copy of a workdir in a store up to date, from entry to exit, in a thread.

    So long other processes are kept out of the workdir: what is fetched and pushed is one's own.
    """

    def __init__(self, address: str, run_folder: Path) -> None:
        """Takes the mirror's address and the workdir; nothing is done before entry."""
        self._address, self._workdir = address, run_folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_pushing, daemon=True)
        self._pushed: dict[str, tuple[int, int]] = {}
        self._reserved = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Fetches what the mirror holds, if the workdir is new or an earlier fetch was cut off.

        Raises:
          DermaganError: the store cannot be reached; the mirror is another run's, or ahead of the
            workdir; the workdir holds something else than a run; or another process has it.
        """
        # A stranger's folder gets no lock.
        self._require_run()
        with contextlib.ExitStack() as stack:
            stack.enter_context(workdir.reserved(self._workdir))
            # Another run may have begun since.
            self._require_run()
            try:
                self._bring()
            except DermaganError:
                raise
            except Exception as error:
                raise _unreachable(self._address, error) from error
            self._reserved = stack.pop_all()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._reserved:
            self._over.set()
            self._thread.join()
            try:
                self.push()
            except DermaganError as failed:
                if error is None:
                    raise
                # How the run ended says more.
                _logger.warning("warning: %s", failed)

    def _is_here(self) -> bool:
        """Whether the workdir holds anything that was not left by a fetch that was cut off."""
        return not (self._workdir / UNFINISHED).exists() and any(_worth_keeping(self._workdir))

    def _require_run(self) -> None:
        if self._is_here() and not workdir.holds_run(self._workdir):
            raise DermaganError(
                f"{self._workdir}: exists and is no run of this program; name another --workdir"
            )

    def _bring(self) -> None:
        store = _Store(self._address)
        is_there = store.exists(LIST)
        if (self._workdir / UNFINISHED).exists() or (is_there and not self._is_here()):
            self._fetch()
        elif is_there:
            self._require_same_run(store)

    def _fetch(self) -> None:
        """Fetches the workdir, under a mark that says that it is not whole yet."""
        _logger.info("fetching the workdir from %s", self._address)
        mark = self._workdir / UNFINISHED
        self._workdir.mkdir(parents=True, exist_ok=True)
        files.write_json(mark, {"from": self._address})
        # What an earlier fetch left may be of another time.
        for path in list(_worth_keeping(self._workdir)):
            path.unlink()
        fetch(self._address, self._workdir)
        mark.unlink()

    def _require_same_run(self, store: _Store) -> None:
        there = store.listed()
        here = {
            str(path.relative_to(self._workdir)): path for path in _worth_keeping(self._workdir)
        }
        for name in there.keys() & here.keys():
            if Path(name).name == workdir.CONFIG:
                found = workdir.differences(
                    json.loads(store.read(name)), json.loads(here[name].read_bytes())
                )
                if found:
                    raise DermaganError(
                        f"{self._address}: holds a run that differs in {'; '.join(found[:3])} "
                        f"from that in {self._workdir}; name another --mirror"
                    )
        if _progress(there, store.read) > _progress(here, lambda name: here[name].read_bytes()):
            raise DermaganError(
                f"{self._address}: holds a later checkpoint (step {_last_step(there)}) than "
                f"{self._workdir}; name a new --workdir to go on from there"
            )

    def _keep_pushing(self) -> None:
        while not self._over.wait(PUSH_SECS):
            try:
                self.push()
            except DermaganError as error:
                # A store that is away for a while is no reason to stop training.
                _logger.warning("warning: %s", error)

    def push(self) -> None:
        """Brings the copy up to date: new files, then the list, then what is no longer listed goes.

        A workdir that no run has claimed yet is left for later.

        Raises:
          DermaganError: the store cannot be written; the copy is as it was.
        """
        if not workdir.holds_run(self._workdir):
            return
        try:
            store = _Store(self._address)
            for _ in range(_PASSES):
                names = self._send_new(store)
                if names is not None:
                    break
            else:  # The list stays as it was, and so does what it names.
                return
            listed = {name: self._pushed[name][0] for name in sorted(names)}
            store.write(LIST, json.dumps({"files": listed}, indent=1).encode())
            for name in self._pushed.keys() - names:
                store.remove(name)
                del self._pushed[name]
        except Exception as error:
            raise _unreachable(self._address, error) from error

    def _send_new(self, store: _Store) -> set[str] | None:
        """Sends what is new or has changed, and returns the names of all files.

        None where one went meanwhile: a checkpoint whose time was over, so that the one in its
        place may not have been there yet when the files were listed.
        """
        paths = list(_worth_keeping(self._workdir))
        for path in paths:
            name = str(path.relative_to(self._workdir))
            try:
                status = path.stat()
                if self._pushed.get(name) != (status.st_size, status.st_mtime_ns):
                    content = path.read_bytes()
                    store.write(name, content)
                    self._pushed[name] = (len(content), status.st_mtime_ns)
            except FileNotFoundError:
                return None
        is_whole = all(path.exists() for path in paths)
        return {str(path.relative_to(self._workdir)) for path in paths} if is_whole else None


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


def _progress(names: Iterable[str], read: Callable[[str], bytes]) -> tuple[int, int]:
    """Returns how far a run is: how often it went back to an earlier step, and its last one."""
    has_returned = workdir.ROLLBACKS in names
    returns = json.loads(read(workdir.ROLLBACKS))["rollbacks"] if has_returned else []
    return len(returns), _last_step(names)


def _unreachable(address: str, error: Exception) -> DermaganError:
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    return DermaganError(
        f"{address}: cannot be reached or written ({reason}); check the address and your "
        "credentials, and install the store's library: pip install 'dermagan-jax[cloud]'"
    )
