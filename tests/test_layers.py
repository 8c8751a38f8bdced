"""Layers against plain XLA forms and against PyTorch's values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.formula import formula
from jax import export

from dermagan_jax.nets import layers

GOLDEN = Path(__file__).parent / "golden" / "layers.npz"

# [side of the large map, its channels, channels of the small map].
SHAPES = [(16, 3, 8), (8, 16, 32), (6, 5, 1), (2, 1, 7)]


def _operands(side: int, channels: int, features: int) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "x": jax.random.normal(keys[0], (2, side, side, channels)),
        "y": jax.random.normal(keys[1], (2, side // 2, side // 2, features)),
        "kernel": jax.random.normal(keys[2], (4, 4, channels, features)),
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_fast_forms_equal_the_plain_ones(shape: tuple[int, int, int]) -> None:
    values = _operands(*shape)
    x, y, kernel = values["x"], values["y"], values["kernel"]

    @jax.jit
    def forms() -> tuple[list[jax.Array], ...]:
        plain, gradients = jax.vjp(layers._plain_conv, x, kernel)
        for_input, for_kernel = gradients(y)
        return (
            [plain, layers.conv_down(x, kernel)],
            [for_input, layers._subpixel_transpose(y, kernel), layers._plain_transpose(y, kernel)],
            [
                for_kernel,
                layers._tapwise_kernel_gradient(x, y),
                layers._plain_kernel_gradient(x, y),
            ],
        )

    for reference, *others in forms():
        for other in others:
            chex.assert_trees_all_close(other, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_forms_keep_the_dtype(dtype: jnp.dtype) -> None:
    values = {name: value.astype(dtype) for name, value in _operands(8, 4, 6).items()}
    x, y, kernel = values["x"], values["y"], values["kernel"]
    outputs = [
        layers.conv_down(x, kernel),
        layers.conv_up(y, kernel),
        layers.conv_kernel_gradient(x, y),
    ]
    assert {output.dtype for output in outputs} == {jnp.dtype(dtype)}
    wide = jax.tree.map(lambda value: value.astype(jnp.float32), values)
    expected = layers.conv_down(wide["x"], wide["kernel"])
    tolerance = 1e-5 if dtype == jnp.float32 else 0.2
    chex.assert_trees_all_close(outputs[0].astype(jnp.float32), expected, atol=tolerance)


def test_gradient_penalty_differentiates_twice() -> None:
    """R1 needs the gradient of a gradient's norm; the plain convolution's is the reference."""
    values = _operands(8, 3, 5)

    def penalty(kernel: jax.Array, conv: Callable[..., jax.Array]) -> jax.Array:
        def score(x: jax.Array) -> jax.Array:
            return (conv(x, kernel) ** 2).sum()

        return (jax.grad(score)(values["x"]) ** 2).mean()

    gradient = jax.jit(jax.grad(penalty), static_argnums=1)
    ours = gradient(values["kernel"], layers.conv_down)
    plain = gradient(values["kernel"], layers._plain_conv)
    chex.assert_trees_all_close(ours, plain, rtol=1e-4)


@pytest.mark.parametrize("case", ["conv_s2_a", "conv_s2_b"])
def test_conv_down_equals_pytorch(case: str) -> None:
    _check_against_golden(case, layers.conv_down)


@pytest.mark.parametrize("case", ["conv_transpose_s2_a", "conv_transpose_s2_b"])
def test_conv_up_equals_pytorch(case: str) -> None:
    _check_against_golden(case, lambda x, kernel: layers.conv_up(x, kernel.swapaxes(2, 3)))


def _check_against_golden(case: str, layer: Callable[..., jax.Array]) -> None:
    shapes = {
        "conv_s2_a": ((2, 8, 8, 3), (4, 4, 3, 5)),
        "conv_s2_b": ((1, 10, 6, 5), (4, 4, 5, 7)),
        "conv_transpose_s2_a": ((2, 4, 4, 5), (4, 4, 5, 3)),
        "conv_transpose_s2_b": ((1, 3, 5, 7), (4, 4, 7, 2)),
    }
    x_shape, kernel_shape = shapes[case]
    x = jnp.asarray(formula(x_shape, seed=1))
    kernel = jnp.asarray(formula(kernel_shape, seed=2, scale=0.1))
    with np.load(GOLDEN) as stored:
        expected = {
            name: stored[f"{case}/{name}"] for name in ("output", "input_grad", "kernel_grad")
        }

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
        output, gradients = jax.vjp(layer, x, kernel)
        return output, *gradients(jnp.asarray(formula(output.shape, seed=3)))

    output, input_grad, kernel_grad = run(x, kernel)
    chex.assert_trees_all_close(output, expected["output"], atol=1e-5)
    chex.assert_trees_all_close(input_grad, expected["input_grad"], atol=1e-5)
    chex.assert_trees_all_close(kernel_grad, expected["kernel_grad"], atol=1e-4)


def test_conv_valid_gradients_equal_the_plain_ones() -> None:
    keys = jax.random.split(jax.random.key(1), 3)
    x, kernel = jax.random.normal(keys[0], (2, 9, 7, 4)), jax.random.normal(keys[1], (3, 3, 4, 5))
    cotangent = jax.random.normal(keys[2], (2, 7, 5, 5))
    ours, plain = (
        jax.jit(lambda x, kernel, conv=conv: jax.vjp(conv, x, kernel)[1](cotangent))(x, kernel)
        for conv in (layers.conv_valid, layers._plain_valid)
    )
    chex.assert_trees_all_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_max_pool_takes_maxima_drops_the_rest_and_shares_ties() -> None:
    x = jnp.array([[1.0, 2.0, 9.0], [3.0, 3.0, 9.0], [9.0, 9.0, 9.0]])[None, :, :, None]
    pooled, gradients = jax.vjp(lambda x: layers.max_pool(x, 2), x)
    chex.assert_trees_all_equal(pooled, jnp.full((1, 1, 1, 1), 3.0))
    (gradient,) = gradients(jnp.ones_like(pooled))
    expected = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    chex.assert_trees_all_equal(gradient[0, :, :, 0], jnp.array(expected))


def test_pointwise_conv_pool_is_a_product_and_a_maximum() -> None:
    keys = jax.random.split(jax.random.key(2), 3)
    x, kernel = jax.random.normal(keys[0], (2, 8, 6, 3)), jax.random.normal(keys[1], (3, 7))
    # Equal pixels tie: their share of the gradient must agree too.
    x = x.at[0, :2, :2].set(0.25)
    cotangent = jax.random.normal(keys[2], (2, 4, 3, 7))
    ours, our_gradients = jax.vjp(layers.pointwise_conv_pool, x, kernel)
    plain, plain_gradients = jax.vjp(lambda x, kernel: layers.max_pool(x @ kernel, 2), x, kernel)
    chex.assert_trees_all_close(ours, plain, atol=1e-5)
    chex.assert_trees_all_close(our_gradients(cotangent), plain_gradients(cotangent), atol=1e-4)


def test_accelerators_get_plain_convolutions() -> None:
    """On CUDA and TPU both gradients lower to convolutions, with no matrix product a tap."""
    values = _operands(8, 4, 6)

    def gradients(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.grad(lambda x, kernel: layers.conv_down(x, kernel).sum(), (0, 1))(x, kernel)

    def lowered(platform: str) -> str:
        exported = export.export(jax.jit(gradients), platforms=[platform])
        return exported(values["x"], values["kernel"]).mlir_module()

    assert lowered("cpu").count("stablehlo.dot_general") == 16
    for platform in ("cuda", "tpu"):
        module = lowered(platform)
        assert "stablehlo.dot_general" not in module
        assert module.count("stablehlo.convolution") == 2
