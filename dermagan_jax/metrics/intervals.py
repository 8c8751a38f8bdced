"""Intervals that draw or leave out whole lesions, whose images are no independent draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

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


def jackknife_interval(
    value: float, left_out: Sequence[np.ndarray], *, bounds: tuple[float, float]
) -> Estimate:
    """Returns a value with the 95% interval of several sources of variance that are independent.

    The variances of the sources add up, and the interval is that of Student's t, whose degrees of
    freedom shrink with the number of groups. It is a little too wide: a jackknife's variance is too
    high on average, and each source's also counts what the sources vary together only.

    Args:
      value: the estimate.
      left_out: of each source the estimates when one of its groups is left out, [G] float.
      bounds: the least and the greatest value that can be, to which the interval is clipped.

    Source: Efron and Stein, "The jackknife estimate of variance" (Annals of Statistics, 1981);
      degrees of freedom, Satterthwaite, 1946.
    """
    if min(map(len, left_out)) < 2:
        return Estimate(float(value), None, None)
    variances = np.array([(len(each) - 1) * np.var(each) for each in left_out])
    if not variances.any():
        return Estimate(float(value), float(value), float(value))
    last = np.array([len(each) - 1 for each in left_out])
    degrees = variances.sum() ** 2 / (variances**2 / last).sum()
    half = stats.t.ppf((1 + LEVEL) / 2, degrees) * np.sqrt(variances.sum())
    low, high = np.clip([value - half, value + half], *bounds)
    return Estimate(float(value), float(low), float(high))


def means_left_out(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns the mean without each group in turn, [G] float; of one group, nothing.

    Args:
      values: [N] float or bool.
      groups: [N], the lesion of each.
    """
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return np.empty(0)
    return (values.sum() - np.bincount(member, values)) / (len(values) - sizes)


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
