"""Bootstrap intervals that draw whole lesions, whose images are no independent draws."""

from __future__ import annotations

import dataclasses

import numpy as np

NUM_RESAMPLES = 1000
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with the interval in which resampled data put it; None where there is too little.

    Attributes:
      value: the estimate from the data as they are.
      low: lower end of the 95% interval.
      high: upper end.
    """

    value: float
    low: float | None
    high: float | None


def resample(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws as many groups as there are, with replacement, `NUM_RESAMPLES` times.

    Args:
      groups: [N] of any type; items of one value are drawn together.
      rng: random generator.

    Returns:
      [NUM_RESAMPLES, N] float64: how often each item was drawn.

    Source: Field and Welsh, "Bootstrapping clustered data" (JRSS B, 2007), the cluster bootstrap.
    """
    names, member = np.unique(groups, return_inverse=True)
    shares = np.full(len(names), 1 / len(names))
    return rng.multinomial(len(names), shares, size=NUM_RESAMPLES)[:, member].astype(np.float64)


def percentile_interval(value: float, resampled: np.ndarray) -> Estimate:
    """Returns a value with the middle 95% of its resampled values.

    Args:
      value: the estimate.
      resampled: [B] float; NaN where a resample left the value undefined.
    """
    defined = resampled[~np.isnan(resampled)]
    # Fewer say nothing about a tail of 2.5%.
    if len(defined) < NUM_RESAMPLES / 2:
        return Estimate(float(value), None, None)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Estimate(float(value), float(low), float(high))


def mean(values: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> Estimate:
    """Returns the mean with its interval.

    Args:
      values: [N] float or bool, N at least 1.
      groups: [N], the lesion of each.
      rng: random generator.
    """
    if len(np.unique(groups)) < 2:
        return Estimate(float(values.mean()), None, None)
    weights = resample(groups, rng)
    return percentile_interval(values.mean(), weights @ values / weights.sum(axis=1))
