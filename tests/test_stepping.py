"""Many steps a call: the same steps, cut where the state is needed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dermagan_jax import parallel, preemption, profiling, stepping
from dermagan_jax.errors import DermaganError

NUM_STEPS = 11
EVERY = 4


def _batches(start: int, size: int) -> list[dict[str, np.ndarray]]:
    """Super-batches of batches of four numbers each, from step `start` on."""
    values = np.arange(4 * 40, dtype=np.float32).reshape(40, 4)
    return [{"x": values[low : low + size]} for low in range(start, NUM_STEPS, size)]


def _step(state: jax.Array, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
    """Order matters: the state is scaled by noise, then moved by the batch."""
    state = state * jax.random.uniform(key) + jnp.sin(batch["x"]).mean()
    return state, {"mean": batch["x"].mean(), "state": state}


def _compiled(*, loops_once: bool = True) -> parallel.Steps:
    mesh = parallel.make_mesh(4)
    return parallel.compile_steps(_step, jax.random.fold_in, mesh, loops_once=loops_once)


def _placed(state: float) -> jax.Array:
    return parallel.replicate(jnp.float32(state), parallel.make_mesh(4))


def _drive(
    size: int, start: int = 0, state: float = 1.0, ends_at: int | None = None
) -> tuple[float, list, list]:
    rows, states = [], []

    def on_state(step: int, state: jax.Array) -> bool:
        states.append((step, float(state), len(rows)))
        return step == ends_at

    final = stepping.drive(
        partial(_compiled(), jax.random.key(0)),
        _placed(state),
        _batches(start, size),
        start=start,
        last=NUM_STEPS,
        size=size,
        every=EVERY,
        on_metrics=lambda step, row: rows.append((step, float(row["mean"]), float(row["state"]))),
        on_state=on_state,
        tracer=profiling.Tracer(None, Path("nowhere")),
    )
    return float(final), rows, states


def test_any_number_of_steps_a_call_gives_the_same_run_bit_for_bit() -> None:
    final, rows, states = _drive(1)
    assert [step for step, *_ in rows] == list(range(1, NUM_STEPS + 1))
    assert [mean for _, mean, _ in rows] == [4 * step + 1.5 for step in range(NUM_STEPS)]
    assert [step for step, *_ in states] == [4, 8, 11]
    for size in (2, 3, 4, 7, 11, 20):
        assert _drive(size) == (final, rows, states)


@pytest.mark.parametrize("size", [1, 3, 20])
def test_a_recorder_may_end_the_run(size: int) -> None:
    """Also in the middle of a super-batch, of which nothing more is used."""
    final, rows, states = _drive(size, ends_at=4)
    assert [step for step, *_ in states] == [4]
    assert [step for step, *_ in rows] == [1, 2, 3, 4]
    assert final == states[0][1]


@pytest.mark.parametrize("size", [1, 3, 20])
@pytest.mark.parametrize("may_end_every", [1, 2])
def test_a_signal_ends_the_run_with_its_state_and_it_goes_on_the_same(
    size: int, may_end_every: int
) -> None:
    whole, rows, _ = _drive(size)
    seen: list[tuple[int, float, float]] = []
    states: list[tuple[int, float]] = []

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for number, each in enumerate(_batches(0, size)):
            if number * size >= 5 or size == 20:
                signal.raise_signal(signal.SIGTERM)
            yield each

    with pytest.raises(preemption.Preempted) as ended:
        stepping.drive(
            partial(_compiled(), jax.random.key(0)),
            _placed(1.0),
            batches(),
            start=0,
            last=NUM_STEPS,
            size=size,
            every=EVERY,
            may_end_every=may_end_every,
            on_metrics=lambda step, row: seen.append(
                (step, float(row["mean"]), float(row["state"]))
            ),
            on_state=lambda step, state: states.append((step, float(state))),
            tracer=profiling.Tracer(None, Path("nowhere")),
        )
    step, state = states[-1]
    assert ended.value.step == step < NUM_STEPS
    assert step % may_end_every == 0
    assert seen == rows[:step]
    assert ended.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    rest, later, _ = _drive(size, start=step, state=state)
    assert (rest, seen + later) == (whole, rows)


def test_the_metrics_of_all_steps_before_a_state_come_before_it() -> None:
    for size in (1, 3, 20):
        _, rows, states = _drive(size)
        assert [count for *_, count in states] == [4, 8, 11]
        for step, state, _ in states:
            assert rows[step - 1][2] == state


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_run_that_goes_on_ends_the_same(size: int) -> None:
    final, rows, states = _drive(1)
    resumed = _drive(size, start=4, state=states[0][1])
    assert resumed[0] == final
    assert resumed[1] == rows[4:]


def test_a_finished_run_calls_nothing() -> None:
    assert _drive(3, start=NUM_STEPS, state=2.0) == (2.0, [], [])


def test_pieces_by_hand() -> None:
    assert list(stepping.pieces(6, 7, every=5, last=12)) == [(0, 4), (4, 6)]
    assert list(stepping.pieces(0, 4, every=10, last=100)) == [(0, 4)]
    assert list(stepping.pieces(8, 4, every=4, last=12)) == [(0, 4)]
    assert list(stepping.pieces(0, 6, every=4, last=6, cuts=(1, 4, 5))) == [
        *((0, 1), (1, 4), (4, 5), (5, 6))
    ]


def test_zero_suits_the_platform_and_less_is_refused() -> None:
    assert stepping.steps_per_call(0) == 1
    assert stepping.steps_per_call(5) == 5
    with pytest.raises(DermaganError, match="steps_per_call is -1"):
        stepping.steps_per_call(-1)


def test_a_call_of_one_step_needs_no_loop() -> None:
    (batch, *_), key = _batches(2, 1), jax.random.key(0)
    programs = [_compiled(loops_once=looping) for looping in (True, False)]
    looping, alone = (
        jax.device_get(steps(key, _placed(1.0), batch, 2, 0, 1)) for steps in programs
    )
    chex.assert_trees_all_close(alone, looping, rtol=1e-6)
    with_loop, without = (
        steps.lower(key, _placed(1.0), batch, 2, 0, 1).as_text().count("stablehlo.while")
        for steps in programs
    )
    assert without == with_loop - 1
