"""How many bits the networks compute in, by name."""

from __future__ import annotations

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dermagan_jax.errors import DermaganError


@dataclasses.dataclass(frozen=True)
class Precision:
    """A precision of the computation; parameters, statistics and losses are always float32.

    Attributes:
      dtype: what the layers compute in.
      matmul: JAX's name for how an accelerator multiplies float32 matrices.
    """

    dtype: DTypeLike
    matmul: str

    def applied(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which programs are traced with this precision of products."""
        return jax.default_matmul_precision(self.matmul)


PRECISIONS = {
    "float32": Precision(jnp.float32, "float32"),
    # The same as float32 where the hardware has no such format, as on CPUs.
    "tf32": Precision(jnp.float32, "tensorfloat32"),
    "bfloat16": Precision(jnp.bfloat16, "default"),
}
"""The precisions by the name that a config gives."""


def find_precision(name: str) -> Precision:
    """Returns the precision of a name.

    Raises:
      DermaganError: there is no such precision.
    """
    if name not in PRECISIONS:
        raise DermaganError(f"config.precision is {name!r}; choose one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
