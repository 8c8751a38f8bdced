"""TensorBoard's event files, written in the thread that trains.

tensorboardX's own writer hands events to a thread through a short queue. When the disk is full that
thread ends, and whoever hands over the next events waits for ever.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from tensorboardX import event_file_writer, summary
from tensorboardX.proto.event_pb2 import Event, SessionLog


class EventFile:
    """One event file of a run, a new one for each start.

    Every method raises OSError where the disk does not take it.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        """Makes the file.

        Args:
          folder: where TensorBoard looks, made when missing.
          first_step: what other files in it have from this step on is no longer shown.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # Two starts within a second must not share a name.
        self._file = event_file_writer.EventsWriter(str(folder / "events"), f".{os.getpid()}")
        self._add(first_step, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, step: int, name: str, value: float) -> None:
        """Adds a value of a step."""
        self._add(step, summary=summary.scalar(name, value))

    def add_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Adds a picture of a step, [H, W, 3] uint8."""
        self._add(step, summary=summary.image(name, image, dataformats="HWC"))

    def _add(self, step: int, **what: object) -> None:
        self._file.write_event(Event(wall_time=time.time(), step=step, **what))

    def flush(self) -> None:
        """Brings everything to the system."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()
