"""Several seeds of one run: which they are, and what their scores have in common."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from dermagan_jax.errors import DermaganError

SPLITS = ("test", "validation")
MAX_SEEDS = 1_000
SCORES = ("accuracy", "balanced_accuracy", "loss")


def parse(text: str) -> list[int]:
    """Reads FIRST:END, from the first seed up to, but not with, the end; [] for "".

    Raises:
      DermaganError: when it is not such a range.
    """
    if not text:
        return []
    first, _, end = text.partition(":")
    # Eighteen digits are what the JAX key of a seed takes, and more than anyone has time for.
    is_range = all(re.fullmatch("[0-9]{1,18}", each) for each in (first, end))
    if not (is_range and 0 < int(end) - int(first) <= MAX_SEEDS):
        raise DermaganError(
            f"--seeds={text[:40]}: give the first seed and the end, such as 0:8 for seeds 0 to 7; "
            f"at most {MAX_SEEDS:,}"
        )
    return list(range(int(first), int(end)))


def summarise(summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Sums up the runs of several seeds.

    Args:
      summaries: by seed, what each run left in its summary.json.

    Returns:
      JSON types: `seeds`; `test` and `validation`, each with a spread of `accuracy`,
      `balanced_accuracy` and `loss`; `num_steps`, `num_train_real`, `num_train_generated` and
      `data`, which all have in common. A spread has `mean`, `sd` (of a sample, None for one seed),
      `min`, `max` and the `values` in the order of the seeds.
    """
    runs = list(summaries.values())
    common = ("num_steps", "num_train_real", "num_train_generated", "data")
    return {
        "seeds": list(summaries),
        **{
            split: {score: _spread(run[split][score] for run in runs) for score in SCORES}
            for split in SPLITS
        },
        **{name: runs[0][name] for name in common},
    }


def _spread(values: Iterable[float]) -> dict[str, Any]:
    found = list(values)
    return {
        "mean": statistics.fmean(found),
        "sd": statistics.stdev(found) if len(found) > 1 else None,
        "min": min(found),
        "max": max(found),
        "values": found,
    }
