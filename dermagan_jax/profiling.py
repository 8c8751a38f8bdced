"""A trace of some steps of a run: what the device did, and when."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path

import jax

from dermagan_jax.errors import DermaganError

_logger = logging.getLogger("dermagan")


@dataclasses.dataclass(frozen=True)
class Window:
    """The steps to trace: those after `start` are done, up to `stop`."""

    start: int
    stop: int


def parse(text: str) -> Window | None:
    """Reads START:END, the first and the last step to trace, counted from 1; None for "".

    Raises:
      DermaganError: when it is not such a range.
    """
    if not text:
        return None
    first, _, last = text.partition(":")
    is_range = all(re.fullmatch("[0-9]{1,9}", each) for each in (first, last))
    if not (is_range and 1 <= int(first) <= int(last)):
        raise DermaganError(f"--profile={text}: give the first and the last step, such as 20:29")
    return Window(int(first) - 1, int(last))


class Tracer:
    """Starts and stops the trace as the steps go by."""

    def __init__(self, window: Window | None, folder: Path) -> None:
        """Takes the window, or None to trace nothing, and the folder for the trace."""
        self._window = window
        self._folder = folder
        self._running = False

    @property
    def cuts(self) -> tuple[int, ...]:
        """Steps at which a call must end, for the trace to begin and end there."""
        return (self._window.start, self._window.stop) if self._window else ()

    def before(self, done: int) -> None:
        """Called when `done` steps are done, before the next call."""
        if self._window and done == self._window.start:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True

    def after(self, done: int, result: object) -> None:
        """Called when `done` steps were asked for, with their result."""
        if self._running and self._window and done >= self._window.stop:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends a trace that is still running, as when the run ended first."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            _logger.info("trace of the profiled steps: %s", self._folder)
