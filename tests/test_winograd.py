"""Winograd's forms against the plain convolution, whose transposes XLA derives."""

from __future__ import annotations

import chex
import jax
import numpy as np
import pytest
from jax import lax

from dermagan_jax.nets import winograd

CASES = [
    # batch, height, width, channels, features, taps
    (2, 4, 6, 3, 5, 2),
    (3, 2, 2, 1, 1, 2),
    (2, 6, 4, 3, 5, 3),
    (1, 2, 8, 2, 1, 3),
]


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)


def _operands(
    batch: int, height: int, width: int, channels: int, features: int, taps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, height + taps - 1, width + taps - 1, channels))
    kernel = jax.random.normal(keys[1], (taps, taps, channels, features))
    return x, kernel, jax.random.normal(keys[2], (batch, height, width, features))


@pytest.mark.parametrize("case", CASES)
def test_the_three_forms_equal_the_plain_ones(case: tuple[int, ...]) -> None:
    x, kernel, y = _operands(*case)
    value, gradients = jax.vjp(_plain, x, kernel)
    for_input, for_kernel = gradients(y)
    chex.assert_trees_all_close(winograd.conv(x, kernel), value, atol=1e-5)
    chex.assert_trees_all_close(winograd.conv_input_gradient(y, kernel), for_input, atol=1e-5)
    chex.assert_trees_all_close(winograd.conv_kernel_gradient(x, y), for_kernel, atol=1e-5)


@pytest.mark.parametrize("batch_size", [8, 9])
def test_the_kernel_gradient_sums_over_parts(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts where the batch divides, in one where it does not: the same sum."""
    x, _, y = _operands(batch_size, 4, 4, 2, 3, 3)
    whole = winograd.conv_kernel_gradient(x, y)
    monkeypatch.setattr(winograd, "_TILES_OF_A_PART", 8)  # Two images.
    in_parts = winograd.conv_kernel_gradient(x, y)
    chex.assert_trees_all_close(in_parts, whole, rtol=1e-5, atol=1e-5)
    loops = str(jax.make_jaxpr(winograd.conv_kernel_gradient)(x, y)).count("scan[")
    assert loops == (1 if batch_size == 8 else 0)


@pytest.mark.parametrize(("taps", "points"), [(2, 9), (3, 16)])
def test_products_are_saved(taps: int, points: int) -> None:
    """9 products for 16, and 16 for 36: each of a quarter of the pixels."""
    x, kernel, y = _operands(2, 4, 4, 3, 5, taps)
    for form, operands in (
        (winograd.conv, (x, kernel)),
        (winograd.conv_input_gradient, (y, kernel)),
        (winograd.conv_kernel_gradient, (x, y)),
    ):
        assert str(jax.make_jaxpr(form)(*operands)).count("dot_general") == points


@pytest.mark.parametrize(
    ("output", "channels", "taps", "expected"),
    [
        ((8, 4, 6), 64, 2, True),
        ((8, 4, 6), 64, 3, True),
        ((7, 4, 6), 64, 3, False),
        ((8, 5, 6), 64, 2, False),
        ((8, 4, 7), 64, 2, False),
        ((8, 4, 6), 12, 2, False),
        ((8, 4, 6), 64, 5, False),
    ],
)
def test_what_it_suits(
    output: tuple[int, int, int], channels: int, taps: int, *, expected: bool
) -> None:
    assert winograd.suits(output, channels, taps) is expected


def test_rounding_stays_near_that_of_the_plain_sum() -> None:
    """At the paper's widest layer, against sums in float64, within four times the plain error."""
    x, kernel, _ = _operands(1, 4, 4, 1024, 8, 2)
    windows = np.lib.stride_tricks.sliding_window_view(np.float64(x), (2, 2), axis=(1, 2))
    exact = np.einsum("bhwcij,ijcf->bhwf", windows, np.float64(kernel))
    plain = np.abs(_plain(x, kernel) - exact).max()
    ours = np.abs(winograd.conv(x, kernel) - exact).max()
    assert 0 < ours < 4 * plain
