"""Checkpoints: the only module that imports Orbax, and TensorStore below it.

A checkpoint holds four items: `state`, from which training goes on; `generator`, the variables
that synthesis needs and nothing else; `config`, a JSON document of how they came to be; `digests`,
by which damage to these is found, since not all of a file's bytes are checked by those who read
it. Each is written beside the last and renamed when whole, so that a crash leaves the last one
as it was.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore as ts
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from dermagan_jax import hosts
from dermagan_jax.digests import digest, digest_of_document
from dermagan_jax.errors import DermaganError

_logger = logging.getLogger("dermagan")

FOLDER, DAMAGED = "checkpoints", "damaged"
_DIGESTS = "digests"
# Orbax's own, and the fields in it whose types it insists on.
_STEP_NOTE = "_CHECKPOINT_METADATA"
_NOTE_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "item_handlers": (dict, str, type(None)),
    "metrics": (dict, type(None)),
    "performance_metrics": dict,
    "init_timestamp_nsecs": (int, type(None)),
    "commit_timestamp_nsecs": (int, type(None)),
    "custom_metadata": (dict, type(None)),
}


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(
        self,
        workdir: Path,
        *,
        keep: int = 2,
        best_metric: str | None = None,
        read_only: bool = False,
    ) -> None:
        """Opens `workdir/checkpoints`, which is made unless `read_only`.

        Args:
          workdir: the run's folder.
          keep: how many of the latest checkpoints to keep.
          best_metric: keep the checkpoint where this metric is lowest, too.
          read_only: only read.

        Raises:
          DermaganError: when `read_only` and there is no such folder, or what Orbax reads of each
            checkpoint when it opens is damaged; else such a checkpoint is moved into the workdir's
            `damaged`, with a warning.
        """
        # Orbax fails in a background thread on a relative path.
        self._folder = (workdir / FOLDER).resolve()
        if read_only and not self._folder.is_dir():
            raise DermaganError(f"{workdir}: holds no checkpoints; name the workdir of a run")
        _quiet_orbax()
        errors = dict(self._damaged_notes(best_metric))
        if not read_only:
            hosts.on_primary(lambda: self._move(errors))
        elif errors:
            raise next(iter(errors.values()))
        try:
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=None if read_only else _preservation(keep, best_metric),
                    create=not read_only,
                    read_only=read_only,
                    best_fn=(lambda metrics: metrics[best_metric]) if best_metric else None,
                    best_mode="min",
                ),
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "generator": ocp.StandardCheckpointHandler(),
                    "config": ocp.JsonCheckpointHandler(),
                    _DIGESTS: ocp.JsonCheckpointHandler(),
                },
            )
        # What `_damaged_notes` does not know of.
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DermaganError(
                f"{self._folder}: the notes of a checkpoint cannot be read ({error}); delete the "
                "last step's folder to go on from the one before"
            ) from error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        with self._writing():
            self._manager.close()

    def latest_step(self) -> int | None:
        """Returns the step of the last whole checkpoint, or None."""
        return self._finished().latest_step()

    def last_good(self) -> str:
        """Returns a clause for an error: which checkpoint is left."""
        step = self.latest_step()
        return (
            "there is no checkpoint yet"
            if step is None
            else f"the last good checkpoint is step {step}"
        )

    def best_step(self) -> int | None:
        """Returns the step where the best metric is lowest, or None."""
        return self._finished().best_step()

    def steps(self) -> list[int]:
        """Returns the steps of all whole checkpoints, ascending."""
        return sorted(self._finished().all_steps())

    def _finished(self) -> ocp.CheckpointManager:
        """Waits until the last checkpoint is whole."""
        with self._writing():
            self._manager.wait_until_finished()
        return self._manager

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            reason = _system_answer(error)
            if reason is None:
                raise
            raise DermaganError(
                f"{self._folder}: a checkpoint cannot be written ({reason}); free some space and "
                "run the same command again, which goes on from the one before"
            ) from error

    def save(
        self,
        step: int,
        *,
        state: Any,
        config: Mapping[str, Any],
        generator: Any | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves a checkpoint, unless one of this step is there already.

        Waits for the one before, and returns while this one is written; the state may be given
        away, since JAX keeps buffers that are still being read.

        Args:
          step: updates done.
          state: what training goes on from.
          config: a JSON document.
          generator: the generator's variables, for a GAN.
          metrics: values for `best_metric`.

        Raises:
          DermaganError: when the disk does not take it.
        """
        # Orbax answers False, silently, for a step that exists.
        if step in self.steps():
            return
        arrays = {"state": state} | ({} if generator is None else {"generator": generator})
        digests = {name: digest(tree) for name, tree in arrays.items()}
        digests["config"] = digest_of_document(config)
        items = {
            name: ocp.args.StandardSave(jax.tree.map(_on_one_device, tree))
            for name, tree in arrays.items()
        }
        items |= {
            "config": ocp.args.JsonSave(dict(config)),
            _DIGESTS: ocp.args.JsonSave(digests),
        }
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)

    def resume(self, first: Any) -> Any:
        """Restores the state of the last whole checkpoint; returns `first` where there is none.

        Damaged ones are passed over with a warning, and moved into the workdir's `damaged`.

        Raises:
          DermaganError: all are damaged, or of other networks.
        """
        errors: dict[int, DermaganError] = {}
        for step in reversed(self.steps()):
            state, error = None, None
            try:
                state = self.restore_state(first, step)
            except DermaganError as damaged:
                error = damaged
            # Each host reads its own part, and none goes on from a step that another cannot read.
            if hosts.any_of_all(error is not None):
                errors[step] = error or self._damaged(step, "state", "another host cannot read it")
                continue
            self._set_aside(errors)
            _logger.info("going on from step %d", step)
            return state
        if errors:
            raise next(iter(errors.values()))
        return first

    def drop_latest(self, count: int) -> int:
        """Deletes the last `count` checkpoints; returns the step of the last that is left, or 0."""
        steps = self.steps()
        for step in steps[max(0, len(steps) - count) :]:
            self._manager.delete(step)
        return self.latest_step() or 0

    def _set_aside(self, errors: Mapping[int, DermaganError]) -> None:
        if not errors:
            return
        hosts.on_primary(lambda: self._move(errors))
        self._manager.reload()

    def _move(self, errors: Mapping[int, DermaganError]) -> None:
        for step, error in errors.items():
            _logger.warning("warning: %s; it is passed over and kept in %s", error, DAMAGED)
            target = self._folder.parent / DAMAGED
            target.mkdir(exist_ok=True)
            shutil.rmtree(target / str(step), ignore_errors=True)
            (self._folder / str(step)).rename(target / str(step))

    def restore_state(self, like: Any, step: int) -> Any:
        """Restores the `state` item, in the structure, shapes and placement of `like`.

        Raises:
          DermaganError: when the checkpoint is damaged or of other networks.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._restore_arrays(step, "state", abstract)

    def restore_generator(self, step: int) -> Any:
        """Restores the `generator` item, on whatever devices there are."""
        return self.restore_arrays(step, "generator")

    def restore_arrays(self, step: int, item: str) -> Any:
        """Restores `state` or `generator` as nested dicts of arrays on the first device."""
        metadata = self._metadata(step, item)
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape,
                leaf.dtype,
                sharding=jax.sharding.SingleDeviceSharding(jax.local_devices()[0]),
            ),
            metadata,
        )
        return self._restore_arrays(step, item, abstract)

    def restore_config(self, step: int) -> dict[str, Any]:
        """Restores the `config` item.

        Raises:
          DermaganError: when the checkpoint is damaged.
        """
        document = self._restore(step, "config", ocp.args.JsonRestore())
        self._require_digest(step, "config", lambda: digest_of_document(document))
        return document

    def _metadata(self, step: int, item: str) -> Any:
        with self._reading(step, item):
            found = self._manager.item_metadata(step).get(item)
        if found is None:
            raise self._damaged(step, item, "it is not there")
        return found.tree if hasattr(found, "tree") else found

    def _restore_arrays(self, step: int, item: str, like: Any) -> Any:
        # Orbax gives up at the first array that cannot be read, and its readers of the others then
        # fill the console with tracebacks. So all are read once before.
        with self._reading(step, item):
            _read_through(self._folder / str(step) / item)
        tree = self._restore(step, item, ocp.args.StandardRestore(like))
        self._require_digest(step, item, lambda: digest(tree))
        return tree

    def _require_digest(self, step: int, item: str, of_what_was_read: Callable[[], int]) -> None:
        # The first checkpoints had no digests, and later ones none of `config`.
        if not (self._folder / str(step) / _DIGESTS).is_dir():
            return
        digests = self._restore(step, _DIGESTS, ocp.args.JsonRestore())
        if not isinstance(digests, dict):
            raise self._damaged(step, item, "its digests are no JSON object")
        if item == "config" and item not in digests:
            return
        if digests.get(item) != of_what_was_read():
            raise self._damaged(step, item, "its content is not what was saved")

    def _restore(self, step: int, item: str, args: Any) -> Any:
        with self._reading(step, item):
            return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]

    @contextlib.contextmanager
    def _reading(self, step: int, item: str) -> Iterator[None]:
        try:
            yield
        # Orbax and TensorStore raise whatever their layers meet in a damaged file, down to a plain
        # Exception.
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise self._damaged(step, item, reason) from error

    def _damaged(self, step: int, item: str, reason: str) -> DermaganError:
        return DermaganError(
            f"{self._folder}/{step}: item '{item}' cannot be restored ({reason}); "
            "restore this step's folder, or delete it to go on from the one before"
        )

    def _damaged_notes(self, best_metric: str | None) -> Iterator[tuple[int, DermaganError]]:
        """Yields the steps with notes that Orbax, which reads all when it opens, would fail on."""
        for folder in sorted(self._folder.glob("[0-9]*")):
            if not folder.name.isdecimal():  # One that was being written.
                continue
            step, item = int(folder.name), "metrics"
            try:
                if (folder / "metrics" / "metrics").is_file():
                    metrics = json.loads((folder / "metrics" / "metrics").read_text("utf-8"))
                    if best_metric is not None:
                        float(metrics[best_metric])
                item = _STEP_NOTE
                if (folder / _STEP_NOTE).is_file():
                    _require_note(json.loads((folder / _STEP_NOTE).read_text("utf-8")))
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                yield step, self._damaged(step, item, str(error))


def _read_through(folder: Path) -> None:
    """Reads the documents and arrays of an item one after another, whatever they are."""
    for path in folder.glob("array_metadatas/*"):
        json.loads(path.read_text(encoding="utf-8"))
    store = {"driver": "ocdbt", "base": folder.as_uri() + "/"}
    for key in ts.KvStore.open(store).result().list().result():
        name, is_header, _ = key.decode().rpartition("/.zarray")
        if is_header:
            spec = {"driver": "zarr", "kvstore": store | {"path": name + "/"}}
            ts.open(spec, read=True).result().read().result()


def _require_note(note: Any) -> None:
    """Raises a ValueError where Orbax would not take a step's note."""
    if not isinstance(note, dict):
        raise ValueError("it is no JSON object")
    for name, kind in _NOTE_FIELDS.items():
        # Other versions of Orbax have fewer.
        if name in note and not isinstance(note[name], kind):
            raise ValueError(f"{name} is of another kind")
    handlers = note.get("item_handlers")
    if isinstance(handlers, dict) and not all(isinstance(each, str) for each in handlers.values()):
        raise ValueError("item_handlers is of another kind")


def _system_answer(error: OSError | ValueError) -> str | None:
    """Returns what the system said to a write; None for an error of another kind."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # TensorStore raises ValueError for what the system answers to it, and gives the number.
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else None


def _on_one_device(leaf: Any) -> Any:
    """Returns one copy; of several, Orbax cuts a part out of each, by a program for each shape."""
    if isinstance(leaf, jax.Array) and leaf.is_fully_addressable and leaf.is_fully_replicated:
        return leaf.addressable_data(0)
    return leaf


def _preservation(keep: int, best_metric: str | None) -> policies.PreservationPolicy:
    latest = policies.LatestN(keep)
    if best_metric is None:
        return latest
    best = policies.BestN(
        get_metric_fn=lambda metrics: metrics[best_metric],
        reverse=True,
        n=1,
        keep_checkpoints_without_metrics=False,
    )
    return policies.AnyPreservationPolicy([latest, best])


def _quiet_orbax() -> None:
    """Keeps Orbax's notes out of the console, and its errors too, which it raises as well."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
