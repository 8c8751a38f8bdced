"""A map of two arrays that is linear in each, with its derivatives given by other such maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper

import jax
from jax import lax

Pair = tuple[jax.Array, jax.Array]


def _varying_axes(operand: jax.Array) -> frozenset[str]:
    return jax.typeof(operand).manual_axis_type.varying


def _vary_alike(a: jax.Array, b: jax.Array) -> Pair:
    """Inside `shard_map`, marks both operands as varying over the axes over which either does.

    A kernel that all devices share has a gradient that they share: the mark's own derivative is the
    sum over the devices, which a hand-written derivative would leave out.
    """
    axes = _varying_axes(a) | _varying_axes(b)

    def mark(operand: jax.Array) -> jax.Array:
        missing = tuple(axes - _varying_axes(operand))
        return lax.pcast(operand, missing, to="varying") if missing else operand

    return mark(a), mark(b)


class Bilinear:
    """A map of two arrays that is linear in each, its derivatives given by other such maps."""

    def __init__(self, form: Callable[[jax.Array, jax.Array], jax.Array]) -> None:
        update_wrapper(self, form)
        self._form = jax.custom_vjp(form)

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Applies the map."""
        return self._form(*_vary_alike(a, b))

    def differentiate_by(self, rule: Callable[[Pair, jax.Array], Pair]) -> None:
        """Sets the rule (operands, cotangent) to (gradient for a, gradient for b)."""
        self._form.defvjp(lambda a, b: (self(a, b), (a, b)), rule)


def relate(value: Bilinear, *, for_input: Bilinear, for_kernel: Bilinear) -> None:
    """Makes the three forms of one convolution each other's derivatives.

    Args:
      value: (x, kernel) to y.
      for_input: (y, kernel) to the gradient of ⟨value(x, kernel), y⟩ for x.
      for_kernel: (x, y) to its gradient for the kernel.
    """
    value.differentiate_by(lambda xk, y: (for_input(y, xk[1]), for_kernel(xk[0], y)))
    for_input.differentiate_by(lambda yk, x: (value(x, yk[1]), for_kernel(x, yk[0])))
    for_kernel.differentiate_by(lambda xy, k: (for_input(xy[1], k), value(xy[0], k)))
