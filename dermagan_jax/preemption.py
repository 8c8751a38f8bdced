"""Ending a run early without losing a step: what a scheduler's signal, or Ctrl-C, asks for."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

from dermagan_jax.errors import TrainingError

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# The last step of a run that ended all the same, and the signal that came in it: its last, or one
# whose loss was no longer finite.
_unheeded: list[tuple[int, signal.Signals]] = []


class Preempted(BaseException):
    """A run that ended early, its state saved. Like KeyboardInterrupt, it is nobody's error.

    Attributes:
      step: updates done.
      signal: what asked for it.
    """

    def __init__(self, step: int, asked: signal.Signals) -> None:
        super().__init__(f"{asked.name} after step {step}")
        self.step = step
        self.signal = asked


def heed(step: int | None = None) -> None:
    """Ends a program of several runs between two of them, if a signal came as one ended.

    Args:
      step: updates that are saved; None for all that the run had done.

    Raises:
      Preempted: a signal came.
    """
    if _unheeded:
        last, asked = _unheeded.pop()
        raise Preempted(last if step is None else step, asked)


class Preemption:
    """Listens for a signal to end, from entry to exit. A second one ends the process at once.

    On several hosts JAX listens for SIGTERM, on any of them, and all hear of it at the same step.
    """

    def __init__(self) -> None:
        self._noted: signal.Signals | None = None
        self._step = 0
        self._before: dict[signal.Signals, Any] = {}

    def asked(self, step: int) -> signal.Signals | None:
        """Returns the signal that asks for an end, if one came.

        Args:
          step: updates done; on several hosts all must ask at the same ones.
        """
        self._step = step
        if (
            self._noted is None
            and jax.process_count() > 1
            and multihost_utils.reached_preemption_sync_point(step)
        ):
            self._noted = signal.SIGTERM
        return self._noted

    def __enter__(self) -> Self:
        if jax.process_count() > 1:
            return self
        # Python gives signals to the main thread alone.
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()
        if self._noted and isinstance(error, TrainingError | None):
            _unheeded[:] = [(self._step, self._noted)]

    def _note(self, number: int, _: FrameType | None) -> None:
        self._noted = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}
