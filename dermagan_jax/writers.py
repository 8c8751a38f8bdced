"""What a run tells while it trains: metrics.jsonl, TensorBoard and a progress line.

`metrics.jsonl` is the record: it holds no wall time, so a run that was killed and resumed leaves
the same bytes as one that was not. Speed goes to TensorBoard and to the progress line only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, SupportsFloat, TextIO

import numpy as np

from dermagan_jax import files
from dermagan_jax.errors import DermaganError
from dermagan_jax.event_files import EventFile

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

_RESERVED_NAMES = frozenset({"step", "non_finite"})
# Long enough for a log that people read, short enough to show that a run is alive.
_LOG_INTERVAL_SECS = 10.0
_TTY_INTERVAL_SECS = 0.1


@contextlib.contextmanager
def _named_disk_errors(path: Path) -> Iterator[None]:
    """Turns an OSError (read-only or full disk) into an error that names the file and remedy."""
    try:
        yield
    except OSError as error:
        raise DermaganError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "choose a writable --workdir with free space"
        ) from error


def _row_text(step: int, metrics: Mapping[str, SupportsFloat]) -> str:
    """Returns one line of metrics.jsonl, keys sorted, NaN and infinities as null and listed."""
    reserved = _RESERVED_NAMES & metrics.keys()
    if reserved:
        raise ValueError(f"metric name {min(reserved)!r} is reserved; choose another")
    values = {name: float(value) for name, value in metrics.items()}
    non_finite = sorted(name for name, value in values.items() if not math.isfinite(value))
    row: dict[str, object] = {**values, **dict.fromkeys(non_finite), "step": int(step)}
    if non_finite:
        row["non_finite"] = non_finite
    return json.dumps(row, sort_keys=True, allow_nan=False) + "\n"


def _metric_names(row: Mapping[str, object]) -> frozenset[str]:
    return frozenset(row.keys() - _RESERVED_NAMES)


def read_metrics(path: Path) -> list[dict]:
    """Reads the rows of a metrics.jsonl, leaving out a torn last line.

    Args:
      path: the file; one that does not exist has no rows.

    Returns:
      The rows in file order, each with `step` and its metrics (None where not finite).

    Raises:
      DermaganError: a line before the last is not a JSON object of numbers with a whole `step`.
    """
    if not path.exists():
        return []
    rows: list[dict] = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("no step")
            if not all(isinstance(row[name], int | float | None) for name in _metric_names(row)):
                raise ValueError("a metric is no number")
        except (ValueError, RecursionError) as error:  # JSON's and UTF-8's are ValueErrors too.
            # A killed process tears the line it was writing, and that is always the last one.
            if number == len(lines):
                break
            raise DermaganError(
                f"{path}: line {number} is damaged ({error}); "
                "restore the file, or move it away to start a new one"
            ) from error
        rows.append(row)
    return rows


def _cut_after(path: Path, resume_step: int) -> list[dict]:
    """Cuts the file to rows of a step <= resume_step, atomically, and returns these rows."""
    if not path.exists():
        return []
    rows = [row for row in read_metrics(path) if row["step"] <= resume_step]
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    if text.encode() != path.read_bytes():
        with files.replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    return rows


class MetricWriter:
    """Writes a run's metrics to `workdir/metrics.jsonl` and to TensorBoard.

    Write every row of a step before that step's checkpoint is saved: then a run that resumes from
    the checkpoint finds the rows up to it, and writes the rest again, without gap or repeat. A
    row that the resumed step already has (same metric names) is not written twice.

    On several hosts only process 0 makes one.
    """

    def __init__(self, workdir: str | Path, *, resume_step: int) -> None:
        """Opens both records, dropping what an interrupted run wrote after `resume_step`.

        Args:
          workdir: the run's folder, made when missing.
          resume_step: step of the restored checkpoint; 0 for a new run. Rows and TensorBoard
            events of later steps are dropped.

        Raises:
          DermaganError: the folder cannot be written, or metrics.jsonl is damaged.
        """
        self._path = Path(workdir) / METRICS_FILE
        with _named_disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            kept = _cut_after(self._path, resume_step)
            self._file = self._path.open("a", encoding="utf-8")
            self._tensorboard = EventFile(
                self._path.parent / TENSORBOARD_FOLDER, first_step=resume_step + 1
            )
        self._last_step = resume_step
        self._kept_names = {_metric_names(row) for row in kept if row["step"] == resume_step}
        self._written_names: set[frozenset[str]] = set()

    def write(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Appends one row to metrics.jsonl and the same values to TensorBoard.

        Args:
          step: number of updates done; never less than that of the row before.
          metrics: {name: value}, names such as `train/d_loss`. NaN and infinities are written as
            null, with their names in the row's list `non_finite`.

        Raises:
          ValueError: the step goes back, a row is written twice, or a name is reserved.
          DermaganError: the disk is full or read-only.
        """
        if step < self._last_step:
            raise ValueError(f"step {step} comes after step {self._last_step}")
        if step > self._last_step:
            self._last_step = step
            self._kept_names.clear()
            self._written_names.clear()
        names = frozenset(metrics)
        if names in self._kept_names:
            return
        if names in self._written_names:
            raise ValueError(f"step {step} has a row of {sorted(names)} already")
        text = _row_text(step, metrics)
        with _named_disk_errors(self._path):
            # One flushed write a row: a kill leaves whole lines and at most one torn at the end.
            self._file.write(text)
            self._file.flush()
        self._written_names.add(names)
        self.write_timing(step, metrics)

    def write_timing(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Writes values to TensorBoard alone: speeds, which differ from run to run.

        Args:
          step: number of updates done.
          metrics: {name: value}, such as `{"train/images_per_sec": 850.0}`; those that are not
            finite are left out.

        Raises:
          DermaganError: the disk is full or read-only.
        """
        with _named_disk_errors(self._path.parent / TENSORBOARD_FOLDER):
            for name, value in metrics.items():
                if math.isfinite(value):
                    self._tensorboard.add_scalar(step, name, float(value))

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures to TensorBoard.

        Args:
          step: number of updates done.
          images: {name: [H, W, 3] uint8}.

        Raises:
          ValueError: an image has another shape or type.
          DermaganError: the disk is full or read-only.
        """
        for name, image in images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
                raise ValueError(f"{name}: {image.dtype}{image.shape} is not uint8 [H, W, 3]")
            with _named_disk_errors(self._path.parent / TENSORBOARD_FOLDER):
                self._tensorboard.add_image(step, name, image)

    def flush(self) -> None:
        """Brings everything to disk; call it before a checkpoint is saved."""
        with _named_disk_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and closes both records; a second call does nothing."""
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()
            with _named_disk_errors(self._path.parent / TENSORBOARD_FOLDER):
                self._tensorboard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def format_duration(secs: float) -> str:
    """Formats a time in its two largest units: `45s`, `3m10s`, `2h05m`, `1d03h`.

    Args:
      secs: seconds, at least 0; rounded to whole ones.

    Returns:
      The text.
    """
    minutes, seconds = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    if minutes:
        return f"{minutes}m{seconds:02d}s"
    return f"{seconds}s"


def format_progress(
    step: int,
    total_steps: int,
    *,
    label: str,
    steps_per_sec: float | None,
    images_per_step: int,
    metrics: Mapping[str, SupportsFloat],
) -> str:
    """Formats one progress line, such as `gan 1200/6400 18% 850 images/s 3m10s left d_loss 0.41`.

    Args:
      step: number of updates done.
      total_steps: number of updates of the whole run.
      label: what is running.
      steps_per_sec: measured speed, or None while there is none.
      images_per_step: images that one update sees.
      metrics: {name: value} to show; a name is shortened to what follows its last `/`.

    Returns:
      The line, without a line end.
    """
    # Rounded down, so that 100% means done.
    percent = 100 * step // total_steps if total_steps else 100
    parts = [label, f"{step}/{total_steps}", f"{percent}%"]
    if steps_per_sec:
        parts.append(f"{steps_per_sec * images_per_step:.4g} images/s")
        if step < total_steps:
            parts.append(f"{format_duration((total_steps - step) / steps_per_sec)} left")
    parts += [f"{name.rsplit('/', 1)[-1]} {float(v):.4g}" for name, v in metrics.items()]
    return "  ".join(parts)


class Progress:
    """A progress line: rewritten in place on a terminal, a new line every 10 s in a log.

    The first update starts the clock, so that compilation does not count in the speed.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        initial_step: int,
        images_per_step: int,
        label: str,
        shown: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Shows the first line, before anything is compiled.

        Args:
          total_steps: number of updates of the whole run.
          initial_step: updates done before, when a run resumes; else 0.
          images_per_step: images that one update sees.
          label: what is running, the line's first word.
          shown: whether to write anything, as only one of several processes should.
          stream: where to write; standard error by default.
          clock: returns seconds; tests put in their own.
        """
        self._total_steps = total_steps
        self._images_per_step = images_per_step
        self._label = label
        self._shown = shown
        # Not a default argument: standard error may be replaced after this module is imported.
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._is_tty = self._stream.isatty()
        self._start: tuple[int, float] | None = None
        self._steps_per_sec: float | None = None
        self._step = initial_step
        self._metrics: Mapping[str, SupportsFloat] = {}
        self._closed = False
        self._show(self._clock())

    @property
    def images_per_sec(self) -> float | None:
        """Images a second since the first update, all pauses included; None before the second."""
        return self._steps_per_sec and self._steps_per_sec * self._images_per_step

    def update(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Notes a step and shows it when it is time to; else no metric is read.

        Args:
          step: number of updates done.
          metrics: {name: value}; values on a device are fetched only when they are shown.
        """
        now = self._clock()
        self._step, self._metrics = step, metrics
        if self._start is None:
            self._start = (step, now)
        first_step, first_time = self._start
        if step > first_step and now > first_time:
            self._steps_per_sec = (step - first_step) / (now - first_time)
        interval = _TTY_INTERVAL_SECS if self._is_tty else _LOG_INTERVAL_SECS
        if now - self._shown_time >= interval:
            self._show(now)

    def _show(self, now: float) -> None:
        self._shown_time, self._shown_step = now, self._step
        if not self._shown:
            return
        line = format_progress(
            self._step,
            self._total_steps,
            label=self._label,
            steps_per_sec=self._steps_per_sec,
            images_per_step=self._images_per_step,
            metrics=self._metrics,
        )
        if self._is_tty:
            # A line wider than the terminal would wrap and could not be rewritten.
            columns = shutil.get_terminal_size().columns
            self._stream.write(f"\r{line[: columns - 1]}\x1b[K")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """Shows the last step, if it is not shown yet, and ends the line."""
        if self._closed:
            return
        self._closed = True
        if self._shown_step != self._step:
            self._show(self._clock())
        if self._is_tty and self._shown:
            self._stream.write("\n")
            self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
