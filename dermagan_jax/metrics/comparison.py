"""Whether one way to train does better than another: paired differences, and how sure they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from dermagan_jax.metrics import intervals

POWER = 0.8


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much higher an arm's score is than the reference's.

    Attributes:
      value: the difference of the means over seeds.
      low: lower end of the 95% interval over lesions and seeds.
      high: upper end.
      p_value: two-sided, of no difference; from the same resamples, so not below 1 / 1000.
      smallest: the smallest difference that would be found four times in five.
    """

    value: float
    low: float
    high: float
    p_value: float
    smallest: float


def _seed_weights(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws seeds with replacement: [NUM_RESAMPLES, count], rows that add up to 1."""
    shares = np.full(count, 1 / count)
    return rng.multinomial(count, shares, size=intervals.NUM_RESAMPLES) / count


def _scores(values: np.ndarray, groups: np.ndarray | None, weights: np.ndarray) -> np.ndarray:
    """Averages [G, C, N] values by [B, N] weights, in each group first: [B, G, C]."""
    masks = [np.ones(values.shape[-1], bool)]
    if groups is not None:
        masks = [groups == each for each in np.unique(groups)]
    with np.errstate(invalid="ignore"):
        of_groups = [
            np.tensordot(weights[:, mask], values[..., mask], axes=(1, 2))
            / weights[:, mask].sum(axis=1)[:, None, None]
            for mask in masks
        ]
    # A resample may have no image of a class; the others then make its mean.
    return np.nanmean(np.stack(of_groups), axis=0)


def paired_difference(
    arm: np.ndarray,
    reference: np.ndarray,
    lesion: np.ndarray,
    *,
    label: np.ndarray | None = None,
    rng: np.random.Generator,
) -> Difference:
    """Compares two arms on the same images, classifier seed by classifier seed.

    Lesions, GAN seeds and classifier seeds are drawn anew, each as a whole: images of a lesion are
    no independent draws, nor are classifiers of one GAN.

    Args:
      arm: [G, C, N] float or bool, a value of each image for each GAN and classifier seed, such as
        whether the prediction was right.
      reference: [1, C, N], that of the classifiers of the same seeds without a GAN; or [G, C, N],
        with the same GANs.
      lesion: [N], the lesion of each image.
      label: [N], to average within each class and then over the classes; None for the mean over
        images.
      rng: random generator.

    Returns:
      The difference, arm minus reference, in the unit of the values.

    Raises:
      ValueError: the arms do not fit each other.

    Source: Field and Welsh, 2007, the cluster bootstrap, here of crossed factors: Owen, 2007, "The
    pigeonhole bootstrap", whose intervals are on the wide side.
    """
    if arm.shape[1:] != reference.shape[1:] or len(reference) not in (1, len(arm)):
        raise ValueError(f"arms of shapes {arm.shape} and {reference.shape} cannot be paired")
    values = arm.astype(np.float64) - reference
    value = _scores(values, label, np.ones((1, values.shape[-1])))[0].mean()
    scores = _scores(values, label, intervals.resample(lesion, rng))
    by_gan, by_classifier = (_seed_weights(count, rng) for count in values.shape[:2])
    resampled = np.einsum("bgc,bg,bc->b", scores, by_gan, by_classifier)
    low, high = np.percentile(resampled, [2.5, 97.5])
    # The resamples beyond 0, or on it, on the rarer side; the data themselves count as one.
    beyond = min((resampled <= 0).sum(), (resampled >= 0).sum())
    p_value = min(1.0, 2 * (beyond + 1) / (len(resampled) + 1))
    reach = stats.norm.ppf(0.975) + stats.norm.ppf(POWER)
    return Difference(
        float(value), float(low), float(high), float(p_value), float(reach * resampled.std(ddof=1))
    )


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
      0; "no difference", where the interval lies within ±margin; else "no evidence".
    """
    if adjusted_p < 1 - intervals.LEVEL and difference.low > 0:
        return "helps"
    if adjusted_p < 1 - intervals.LEVEL and difference.high < 0:
        return "harms"
    if -margin < difference.low and difference.high < margin:
        return "no difference"
    return "no evidence"


def verdicts(differences: Mapping[str, Difference], *, margin: float) -> dict[str, str]:
    """Gives each arm its verdict, the p-values adjusted over all of them by Holm's method."""
    adjusted = holm([each.p_value for each in differences.values()])
    return {
        name: verdict(difference, p_value, margin=margin)
        for (name, difference), p_value in zip(differences.items(), adjusted, strict=True)
    }
