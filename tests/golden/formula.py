"""The numbers that the golden values start from: a formula, so that none need be stored."""

from __future__ import annotations

import numpy as np

PRIME = 65_521


def formula(
    shape: tuple[int, ...], *, seed: int, scale: float = 1.0, shift: float = 0.0
) -> np.ndarray:
    """Returns numbers that look random, in [shift - scale, shift + scale], by integer arithmetic.

    Element j (C order) is `shift + scale * (h / 32760 - 1)`, h = (40503 i^2 + 30011 i) mod 65521,
    i = j + 1 + 1000 * seed. It needs no random generator and no libm, so it is the same everywhere.

    Args:
      shape: the array's shape in its own layout (NHWC for images, HWIO for kernels).
      seed: which stretch of the sequence; 0 or more.
      scale: half the width of the range.
      shift: the middle of the range.

    Returns:
      float32 array of that shape.
    """
    index = np.arange(int(np.prod(shape)), dtype=np.int64) + 1 + 1000 * seed
    hashed = (40_503 * index * index + 30_011 * index) % PRIME
    return (shift + scale * (hashed / 32_760 - 1)).astype(np.float32).reshape(shape)
