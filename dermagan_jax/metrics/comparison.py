"""Whether one way to train does better than another: differences, and how sure they are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from dermagan_jax.metrics import intervals

NUM_RESAMPLES = 20_000
POWER = 0.8
_AT_ONCE = 500  # Resamples: so many numbers for each lesion are in memory.


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much higher an arm's score is than the reference's.

    Attributes:
      value: the difference of the means over seeds.
      low: lower end of the 95% interval over lesions and seeds.
      high: upper end.
      p_value: two-sided, of no difference; below 5% where the interval leaves 0 out, and 1 where
        nothing varies, as with a single lesion, and so nothing tells how sure the difference is.
      error: the standard error.
      degrees: of freedom, of Student's t whose quantile times the error is half the interval.
    """

    value: float
    low: float
    high: float
    p_value: float
    error: float
    degrees: float


def _scores(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Averages [..., N] values in each of the [N] groups, then over the groups."""
    return np.mean([values[..., group == each].mean(axis=-1) for each in np.unique(group)], axis=0)


def _resample(
    values: np.ndarray, lesion: np.ndarray, group: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws lesions with replacement: [count] scores of the [N] values."""
    member, column = (np.unique(each, return_inverse=True)[1] for each in (lesion, group))
    # What the images of a lesion add up to in each group is all that a resample needs of them.
    sums, images = np.zeros((2, member.max() + 1, column.max() + 1))
    np.add.at(sums, (member, column), values)
    np.add.at(images, (member, column), 1)
    scores = []
    for done in range(0, count, _AT_ONCE):
        drawn = _draw_counts(len(sums), min(_AT_ONCE, count - done), rng)
        with np.errstate(invalid="ignore"):
            # A resample may have no image of a class; the others then make its mean.
            scores.append(np.nanmean(drawn @ sums / (drawn @ images), axis=1))
    return np.concatenate(scores)


def _draw_counts(of: int, times: int, rng: np.random.Generator) -> np.ndarray:
    """Draws as many items as there are, again and again: [times, of] float, how often each."""
    place = rng.integers(of, size=(times, of)) + of * np.arange(times)[:, None]
    return np.bincount(place.ravel(), minlength=times * of).reshape(times, of).astype(np.float64)


def _variance_of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def _degrees(parts: Sequence[tuple[int, float]]) -> float:
    """Pools the degrees of freedom of the parts of a variance.

    Args:
      parts: the number of lesions, of GANs, of the arm's and of the reference's classifiers, each
        with its part of the variance.

    Source: Satterthwaite, 1946.
    """
    total = sum(variance for _, variance in parts)
    uncertainty = sum(variance**2 / (count - 1) for count, variance in parts if variance)
    return total**2 / uncertainty if uncertainty else float(max(count for count, _ in parts))


def paired_difference(
    arm: np.ndarray,
    reference: np.ndarray,
    lesion: np.ndarray,
    *,
    label: np.ndarray | None = None,
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> Difference:
    """Compares two arms on the same images.

    Lesions, GAN seeds and classifier seeds vary, each as a whole: images of a lesion are no
    independent draws, nor are classifiers of one GAN. Lesions are drawn anew. To draw n - 1 of n
    seeds anew, often enough, gives the mean the variance s² / n, which is taken as it is; n of n
    would make it too small by (n - 1) / n, and one seed alone has none. The parts add up, and
    Student's t makes good for a part that two or three seeds tell: with a resample's percentiles
    or the normal quantile, three seeds of much influence reject a true null in a sixth of studies.

    Classifiers are not paired by their seed: no sign was seen that two arms' of one seed do well or
    badly together, and pairs would leave out some where one arm has fewer seeds.

    Args:
      arm: [G, C, N] float or bool, a value of each image for each GAN and classifier seed, such as
        whether the prediction was right.
      reference: [1, R, N], that of classifiers without a GAN; or [G, R, N], with the same GANs.
      lesion: [N], the lesion of each image.
      label: [N], to average within each class and then over the classes; None for the mean over
        images.
      rng: random generator.
      num_resamples: how often lesions are drawn.

    Returns:
      The difference, arm minus reference, in the unit of the values.

    Raises:
      ValueError: the arms do not fit each other.

    Source: Field and Welsh, 2007, the cluster bootstrap; Rao and Wu, 1988, n - 1 of n. The sum
    counts what lesions and seeds do together once for each of them, as Owen's "pigeonhole
    bootstrap", 2007, does more than that: the intervals are on the wide side.
    """
    if arm.shape[2] != reference.shape[2] or len(reference) not in (1, len(arm)):
        raise ValueError(f"arms of shapes {arm.shape} and {reference.shape} cannot be compared")
    values = arm.mean(axis=(0, 1)) - reference.mean(axis=(0, 1))
    group = np.zeros(len(values)) if label is None else label
    resampled = _resample(values, lesion, group, num_resamples, rng)
    both = _scores(arm, group), _scores(reference, group)
    of_gans = both[0].mean(axis=1) - both[1].mean(axis=1)
    parts = [
        (len(np.unique(lesion)), float(resampled.var(ddof=1))),
        (len(of_gans), _variance_of_mean(of_gans)),
        *((each.shape[1], _variance_of_mean(each.mean(axis=0))) for each in both),
    ]
    value, error = float(of_gans.mean()), math.sqrt(sum(variance for _, variance in parts))
    degrees = _degrees(parts)
    reach = float(stats.t.ppf((1 + intervals.LEVEL) / 2, degrees)) * error
    p_value = float(2 * stats.t.sf(abs(value) / error, degrees)) if error else 1.0
    return Difference(value, value - reach, value + reach, p_value, error, degrees)


def smallest_found(difference: Difference, num_compared: int) -> float:
    """Returns the difference that would be found four times in five.

    Args:
      difference: an arm's.
      num_compared: the arms over which Holm's method adjusts; the first of them needs a p-value
        below 5% divided by their number, and that is what is asked for here.
    """
    alpha = (1 - intervals.LEVEL) / num_compared
    needed, spread = stats.t.ppf([1 - alpha / 2, POWER], difference.degrees)
    return float((needed + spread) * difference.error)


def holm(p_values: Sequence[float]) -> list[float]:
    """Raises p-values so that any one below 5% errs in at most 5% of studies, over all of them.

    Source: Holm, 1979.
    """
    order = np.argsort(p_values)
    adjusted = np.zeros(len(order))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, (len(order) - rank) * p_values[index])
        adjusted[index] = min(1.0, highest)
    return adjusted.tolist()


def mcnemar(arm: np.ndarray, reference: np.ndarray) -> float:
    """Computes the exact p-value of McNemar's test; it counts images, not lesions or seeds.

    Args:
      arm: [N] bool, whether each image was classified right.
      reference: [N] bool, the same of the other classifier.
    """
    gained, lost = int((arm & ~reference).sum()), int((reference & ~arm).sum())
    if not gained + lost:
        return 1.0
    return float(stats.binomtest(gained, gained + lost).pvalue)


def verdict(difference: Difference, adjusted_p: float, *, margin: float) -> str:
    """Says in words what a difference shows.

    Args:
      difference: of a score of which more is better.
      adjusted_p: its p-value, adjusted for the other comparisons.
      margin: the difference below which an arm is as good as the reference, above 0.

    Returns:
      "helps" or "harms", where the adjusted p-value is below 5% and the interval is on one side of
      0; "no difference", where the interval lies within ±margin; else "no evidence", as where
      nothing varies: two classifiers that name one class for all images say nothing of their arms.
    """
    if not difference.error:
        return "no evidence"
    if adjusted_p < 1 - intervals.LEVEL and difference.low > 0:
        return "helps"
    if adjusted_p < 1 - intervals.LEVEL and difference.high < 0:
        return "harms"
    if -margin < difference.low and difference.high < margin:
        return "no difference"
    return "no evidence"
