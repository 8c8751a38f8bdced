"""The folder of one training run: who owns it, which configuration it belongs to."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dermagan_jax import files
from dermagan_jax.errors import DermaganError

CONFIG = "config.json"
SUMMARY = "summary.json"
SEEDS = "seeds.json"
ROLLBACKS = "rollbacks.json"
DATA = ".data"  # The copy of a prepared set that lies in a store.

_OF_SEEDS = r"seed_\d+|profile|" + "|".join(map(re.escape, (SEEDS, files.LOCK, DATA)))

# What lies in a folder before a run begins in it: a lock, and data fetched from a store.
_OF_NO_RUN = frozenset({files.LOCK, DATA})

# What may change between two calls of one run: how long it is, how often it reports, and where what
# it is given lies; what that holds is among the data.
_MUTABLE = frozenset(
    {
        *(
            "num_steps",
            "total_kimg",
            "steps_per_call",
            "mesh",
            "log_every_steps",
            "variant",
            "checkpoint_every_steps",
            "keep_checkpoints",
            "rollbacks",
            "rollback_checkpoints",
        ),
        *("data_dir", "gan_workdir", "dir", "extra_dir", "init_from", "weights"),
    }
)


# The workdirs that `reserved` keeps for a run of this process, which has not claimed them yet.
_waiting: set[Path] = set()


@contextlib.contextmanager
def reserved(workdir: Path) -> Iterator[None]:
    """Keeps other processes out of a workdir, and out of those of seeds in it; a run may claim it.

    Args:
      workdir: a run's folder, or that of several seeds; made if it is new.

    Raises:
      DermaganError: another process has it, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        for folder in (workdir, *(path.parent for path in workdir.glob(f"seed_*/{CONFIG}"))):
            stack.enter_context(_held(folder))
            _waiting.add(folder.resolve())
            stack.callback(_waiting.discard, folder.resolve())
        yield


def _held(folder: Path) -> contextlib.AbstractContextManager[None]:
    return files.held(folder, doing="training", option="--workdir")


@contextlib.contextmanager
def _held_or_reserved(folder: Path) -> Iterator[None]:
    place = folder.resolve()
    if place not in _waiting:
        with _held(folder):
            yield
        return
    # What was reserved is one run's; another in this process finds the folder taken.
    _waiting.remove(place)
    try:
        yield
    finally:
        _waiting.add(place)


@contextlib.contextmanager
def claimed(workdir: Path, *, config: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[None]:
    """Makes `workdir` this run's, or finds that it is already, and keeps other processes out of it.

    Args:
      workdir: new, empty, or the folder of an earlier call with the same configuration.
      config: the run's configuration, as JSON types.
      data: what the run was given to train on, as JSON types.

    Raises:
      DermaganError: it holds another run or other files, another process trains in it, or it cannot
        be written.
    """
    ours = json.loads(json.dumps({"config": config, "data": data}))
    _require_ours(workdir, ours)
    with _held_or_reserved(workdir):
        # Another run may have begun and ended since.
        _require_ours(workdir, ours)
        files.write_json(workdir / CONFIG, ours)
        yield


def _require_ours(workdir: Path, ours: Mapping[str, Any]) -> None:
    path = workdir / CONFIG
    if path.is_file():
        found = differences(_read(path), ours)
        if found:
            raise DermaganError(
                f"{workdir}: holds a run that differs in {'; '.join(found[:3])}; "
                "name another --workdir, or give the values that it had"
            )
    elif workdir.exists() and not _is_free(workdir):
        raise DermaganError(f"{workdir}: exists and is no run of this program; name another folder")


def holds_run(folder: Path) -> bool:
    """Whether a folder is the workdir of a run, or holds those of several seeds."""
    return any(folder.glob(CONFIG)) or any(folder.glob(f"seed_*/{CONFIG}"))


def seed_folder(folder: Path, seed: int) -> Path:
    """Returns the workdir of one of several seeds in a folder."""
    return folder / f"seed_{seed:03d}"


def claim_seeds(folder: Path) -> None:
    """Finds that `folder` is new, or holds nothing but the workdirs of seeds and what sums them up.

    Raises:
      DermaganError: when it holds a run or other files.
    """
    if folder.exists() and not folder.is_dir():
        raise DermaganError(f"{folder}: is no folder; name another --workdir")
    names = _names(folder) if folder.is_dir() else set()
    others = sorted(name for name in names if not re.fullmatch(_OF_SEEDS, name))
    if others:
        raise DermaganError(
            f"{folder}: holds {others[0]}, which is no run of several seeds; name another --workdir"
        )


def _is_free(folder: Path) -> bool:
    return folder.is_dir() and _names(folder) <= _OF_NO_RUN


def _names(folder: Path) -> set[str]:
    """Lists a folder, without what a kill left half-written."""
    return {path.name for path in folder.iterdir() if not files.is_partial(path.name)}


def _read(path: Path) -> dict[str, Any]:
    fields: files.Fields = {"config": dict, "data": dict}
    return files.read_json(path, fields, remedy="delete the file to take the workdir over")


def differences(before: Any, after: Any, name: str = "") -> list[str]:
    """Lists the fields, by dotted name, that two runs' documents must share and do not.

    Args:
      before: as in config.json.
      after: likewise.
      name: of the field that holds the two; "" for the documents themselves.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            difference
            for key in sorted(before.keys() | after.keys())
            if key not in _MUTABLE
            for difference in differences(
                before.get(key, "nothing"), after.get(key, "nothing"), f"{name}.{key}".lstrip(".")
            )
        ]
    return [] if before == after else [f"{name} ({before} there, {after} here)"]
