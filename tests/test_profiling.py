"""Profiles: the range of steps, and a trace of these and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from dermagan_jax import profiling
from dermagan_jax.errors import DermaganError


def test_a_range_counts_from_one_and_includes_both_ends() -> None:
    assert profiling.parse("20:29") == profiling.Window(19, 29)
    assert profiling.parse("1:1") == profiling.Window(0, 1)
    assert profiling.parse("") is None


@pytest.mark.parametrize("text", ["3", "0:4", "5:4", "a:b", ":", "1:", "-1:3", "1:2:3"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(DermaganError, match="give the first and the last step, such as 20:29"):
        profiling.parse(text)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    profiler = profiling.jax.profiler
    monkeypatch.setattr(profiler, "start_trace", lambda *_, **__: found.append("start"))
    monkeypatch.setattr(profiler, "stop_trace", lambda: found.append("stop"))
    return found


def test_the_trace_spans_its_steps(calls: list[str], tmp_path: Path) -> None:
    tracer = profiling.Tracer(profiling.Window(2, 4), tmp_path)
    for done in range(6):
        tracer.before(done)
        calls.append(f"step {done + 1}")
        tracer.after(done + 1, ())
    tracer.close()
    steps = [f"step {number}" for number in range(1, 7)]
    assert calls == [*steps[:2], "start", *steps[2:4], "stop", *steps[4:]]
    assert tracer.cuts == (2, 4)


def test_a_run_that_ends_first_ends_the_trace(calls: list[str], tmp_path: Path) -> None:
    tracer = profiling.Tracer(profiling.Window(0, 9), tmp_path)
    tracer.before(0)
    tracer.close()
    assert calls == ["start", "stop"]


def test_no_window_no_trace(calls: list[str], tmp_path: Path) -> None:
    tracer = profiling.Tracer(None, tmp_path)
    tracer.before(0)
    tracer.after(1, ())
    tracer.close()
    assert calls == []
    assert tracer.cuts == ()
