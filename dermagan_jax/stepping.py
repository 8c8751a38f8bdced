"""The loop that both trainers share: many steps a call, metrics read while the next call runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from dermagan_jax.errors import DermaganError
from dermagan_jax.parallel import ManySteps, Steps
from dermagan_jax.preemption import Preempted, Preemption
from dermagan_jax.profiling import Tracer

# A step of a small network takes an accelerator less time than Python takes to ask for it.
ACCELERATOR_STEPS_PER_CALL = 32


def steps_per_call(asked: int) -> int:
    """Returns `asked`, or where it is 0 what suits the platform: 1 on CPUs, more elsewhere.

    Raises:
      DermaganError: when it is negative.
    """
    if asked < 0:
        raise DermaganError(
            f"config.steps_per_call is {asked}; give a number from 1, or 0 for auto"
        )
    if asked:
        return asked
    return 1 if jax.default_backend() == "cpu" else ACCELERATOR_STEPS_PER_CALL


def pieces(
    base: int, size: int, *, every: int, last: int, cuts: Iterable[int] = ()
) -> Iterator[tuple[int, int]]:
    """Cuts a super-batch where the state is needed: at the multiples of `every`, and at the end.

    Args:
      base: steps done before the super-batch.
      size: batches in it.
      every: the state is needed when this many steps, or a multiple, are done.
      last: the run's last step.
      cuts: further numbers of steps to cut at.

    Yields:
      The first batch and the end of each piece, counted within the super-batch.
    """
    done, end = base, min(base + size, last)
    while done < end:
        stop = min(done + every - done % every, end, *(cut for cut in cuts if cut > done))
        yield done - base, stop - base
        done = stop


def drive(
    steps: Steps | ManySteps,
    state: Any,
    superbatches: Iterable[Any],
    *,
    start: int,
    last: int,
    size: int,
    every: int,
    may_end_every: int = 1,
    on_metrics: Callable[[int, Any], None],
    on_state: Callable[[int, Any], bool | None],
    tracer: Tracer,
) -> Any:
    """Trains from step `start` to step `last`.

    The metrics of a call are fetched after the next call was made, so that the device works while
    the host reads; those of all steps up to a state are handed over before it.

    Args:
      steps: from `parallel.compile_steps`, the key given; or from `parallel.side_by_side`.
      state: the state after `start` steps.
      superbatches: from step `start` on, `size` batches each.
      start: steps done.
      last: the last step.
      size: batches of a super-batch.
      every: see `pieces`.
      may_end_every: a signal ends the run after a multiple of this many steps.
      on_metrics: called with a step's number and its metrics.
      on_state: called with the number of steps done and the state, which the next call gives away;
        True ends the run there. After a signal it is called at another step than usual.
      tracer: traces some of the steps.

    Returns:
      The state after the last step, or after the one at which `on_state` ended the run.

    Raises:
      Preempted: a signal came, and `on_state` has had the state.
    """
    waiting = _Waiting(on_metrics)
    with Preemption() as preemption:
        asked = None
        for base, batches, low, high in _calls(superbatches, start, last, size, every, tracer.cuts):
            if asked:
                high = min(high, low + may_end_every - (base + low) % may_end_every)
            tracer.before(base + low)
            state, metrics = steps(state, batches, base, low, high)
            tracer.after(base + high, metrics)
            waiting.take(base, low, high, metrics)
            done = base + high
            asked = asked or preemption.asked(done)
            ends = asked and done % may_end_every == 0 and done < last
            if done % every == 0 or done == last or ends:
                waiting.hand_over()
                if on_state(done, state):
                    break
            if asked and ends:
                raise Preempted(done, asked)
    tracer.close()
    return state


class _Waiting:
    """The metrics of the last call, until the next is made or the state is needed."""

    def __init__(self, on_metrics: Callable[[int, Any], None]) -> None:
        self._on_metrics = on_metrics
        self._held: tuple[int, int, int, Any] | None = None

    def take(self, base: int, low: int, high: int, metrics: Any) -> None:
        """Hands over what is held, and holds these."""
        self.hand_over()
        self._held = (base, low, high, metrics)

    def hand_over(self) -> None:
        if self._held is None:
            return
        base, low, high, metrics = self._held
        self._held = None
        fetched = jax.device_get(metrics)
        for at in range(low, high):
            row = jax.tree.map(lambda values, at=at: values[at], fetched)
            self._on_metrics(base + at + 1, row)


def _calls(
    superbatches: Iterable[Any], start: int, last: int, size: int, every: int, cuts: Iterable[int]
) -> Iterator[tuple[int, Any, int, int]]:
    """Yields each super-batch with the steps done before it, and its pieces."""
    for base, batches in zip(range(start, last, size), superbatches, strict=False):
        for low, high in pieces(base, size, every=every, last=last, cuts=cuts):
            yield base, batches, low, high
