"""How far a step is from what the machine could do: its arithmetic and its traffic at full rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import ours

MATRIX_SIDE = 2048
COPY_FLOATS = 1 << 26

# The jobs to look at, with the case whose measured time they are held against.
STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "gan_step_64": ("gan_step", {"batch_size": 64}),
    "cnn_step_64": ("cnn_step", {"batch_size": 64, "policy": "none"}),
}

COUNTED = frozenset(job for job, _ in STEPS.values())
"""The jobs whose work `work_of` counts."""


def _best_secs(function: Callable[[jax.Array], jax.Array], operand: jax.Array) -> float:
    # Written over its operand: in fresh memory, the first touch of its pages would take most of a
    # copy's time, and a step's programs write into memory that they have.
    compiled = jax.jit(function, donate_argnums=0)
    operand = compiled(operand).block_until_ready()
    found = []
    for _ in range(7):
        start = time.perf_counter()
        operand = compiled(operand).block_until_ready()
        found.append(time.perf_counter() - start)
    return min(found)


def machine_rates() -> dict[str, float]:
    """Measures this machine: `gflops`, a matrix product's, and `gbytes_per_s`, a copy's."""
    matrix = jnp.full((MATRIX_SIDE, MATRIX_SIDE), 1 / MATRIX_SIDE)  # Its product is itself.
    product_secs = _best_secs(lambda a: a @ a, matrix)
    copy_secs = _best_secs(lambda a: a + 1, jnp.ones(COPY_FLOATS))
    return {
        "gflops": round(2 * MATRIX_SIDE**3 / product_secs / 1e9, 1),
        # Each float is read once and written once.
        "gbytes_per_s": round(8 * COPY_FLOATS / copy_secs / 1e9, 1),
    }


def floors(job: str, parameters: Mapping[str, Any], rates: dict[str, float]) -> dict[str, float]:
    """Counts a step's work and divides it by the machine's rates.

    Args:
      job: a function of `ours` that makes a stepper.
      parameters: what it is called with.
      rates: from `machine_rates`.

    Returns:
      What `work_of` does; `product_floor_ms` and `copy_floor_ms`, what they take at full rate.
    """
    work = work_of(job, parameters)
    return work | {
        "product_floor_ms": round(1e3 * work["gflop"] / rates["gflops"], 1),
        "copy_floor_ms": round(1e3 * work["gbytes"] / rates["gbytes_per_s"], 1),
    }


def work_of(job: str, parameters: Mapping[str, Any]) -> dict[str, float]:
    """Counts a step's work: `gflop` and `gbytes`.

    The arithmetic is what XLA's cost analysis counts in the plain forms of the layers, the traffic
    what it counts in the program that runs here.
    """
    stepper = getattr(ours, job)(**parameters)
    # The steps may be several compiled functions, or one with its keys bound: traced as one.
    traced = jax.jit(stepper.steps).trace(stepper.state, next(stepper.superbatches), 0, 0, 1)
    # A loop's body counts once: right for the loop over steps, of which there is one, and wrong for
    # the loops within the CPU's forms. An accelerator's program has none.
    gflop = traced.lower(lowering_platforms=("tpu",)).cost_analysis()["flops"] / 1e9
    gbytes = traced.lower().compile().cost_analysis()["bytes accessed"] / 1e9
    return {"gflop": round(gflop, 1), "gbytes": round(gbytes, 2)}
