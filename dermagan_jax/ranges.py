"""Which numbers a configuration may hold, so that a mistaken one is refused before a run begins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dermagan_jax.errors import DermaganError


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low`, or above it, and below `high`; NaN is in none.

    Attributes:
      low: the least.
      high: what they stay below.
      above: whether `low` itself is none of them.
    """

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value < self.high

    def __str__(self) -> str:
        end = "" if self.high == math.inf else f", below {self.high:g}"
        return f"a number {'above' if self.above else 'from'} {self.low:g}{end}"


FROM_0, FROM_1, ABOVE_0, SHARE = Range(0), Range(1), Range(0, above=True), Range(0, 1)
SEED = Range(0, 1e18)

ADAM: Mapping[str, Range] = {
    "optimizer.learning_rate": ABOVE_0,
    "optimizer.b1": SHARE,
    "optimizer.b2": SHARE,
    "optimizer.epsilon": FROM_0,
}
"""What Adam takes."""


def require_fields(
    config: Mapping[str, Any], names: Sequence[str], *, whose: str, example: str
) -> None:
    """Refuses the recipe of something else.

    Args:
      config: what was read.
      names: of fields that it must have.
      whose: what it should be of, such as `a study's`.
      example: a recipe that is.

    Raises:
      DermaganError: naming a field that it lacks.
    """
    missing = [name for name in names if name not in config]
    if missing:
        raise DermaganError(
            f"--config: the recipe has no field {missing[0]!r}, so it is no {whose}; give one such "
            f"as {example}"
        )


def require(config: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Refuses a configuration with a number out of its range.

    Args:
      config: a run's.
      ranges: by the fields' dotted names; those that it does not have are passed over.

    Raises:
      DermaganError: naming the field and the numbers that it may have.
    """
    for name, allowed in ranges.items():
        part: Any = config
        *parents, last = name.split(".")
        for parent in parents:
            part = part.get(parent, {})
        if last in part and part[last] not in allowed:
            raise DermaganError(f"config.{name} is {part[last]}; give {allowed}")
