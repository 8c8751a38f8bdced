"""Layers against plain XLA forms and against PyTorch's values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden.formula import formula
from jax import export, lax

from dermagan_jax import augmentation, classifier, gan, state
from dermagan_jax.nets import dcgan, layers, stride_one, stride_two
from dermagan_jax.nets.lesion_cnn import LesionCNN

GOLDEN = Path(__file__).parent / "golden" / "layers.npz"

# [side of the large map, its channels, channels of the small map].
# The fourth and the fifth have the channels for Winograd's form, and at a batch of 12 the tiles;
# the fifth has no even output.
SHAPES = [(20, 3, 8), (16, 4, 4), (2, 1, 7), (8, 16, 32), (6, 16, 5)]


def _operands(side: int, channels: int, features: int) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "x": jax.random.normal(keys[0], (12, side, side, channels)),
        "y": jax.random.normal(keys[1], (12, side // 2, side // 2, features)),
        "kernel": jax.random.normal(keys[2], (4, 4, channels, features)),
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-4), (jnp.bfloat16, 3e-2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_fast_forms_equal_the_plain_ones(
    shape: tuple[int, int, int], dtype: jnp.dtype, tolerance: float
) -> None:
    values = {name: value.astype(dtype) for name, value in _operands(*shape).items()}
    x, y, kernel = values["x"], values["y"], values["kernel"]

    @jax.jit
    def forms() -> tuple[list[jax.Array], ...]:
        plain, gradients = jax.vjp(stride_two._plain_conv, x, kernel)
        for_input, for_kernel = gradients(y)
        return (
            [plain, stride_two._cpu_conv(x, kernel)],
            [
                for_input,
                stride_two._cpu_transpose(y, kernel),
                stride_two._plain_transpose(y, kernel),
            ],
            [
                for_kernel,
                stride_two._cpu_kernel_gradient(x, y),
                stride_two._plain_kernel_gradient(x, y),
            ],
        )

    for reference, *others in forms():
        assert reference.dtype == dtype
        scale = jnp.abs(reference).max().astype(jnp.float32)
        for other in others:
            assert other.dtype == dtype
            difference = jnp.abs((other - reference).astype(jnp.float32)).max()
            assert difference <= tolerance * scale


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_forms_keep_the_dtype(dtype: jnp.dtype) -> None:
    values = {name: value.astype(dtype) for name, value in _operands(8, 4, 6).items()}
    x, y, kernel = values["x"], values["y"], values["kernel"]
    outputs = [
        stride_two.conv_down(x, kernel),
        stride_two.conv_up(y, kernel),
        stride_two.conv_kernel_gradient(x, y),
    ]
    assert {output.dtype for output in outputs} == {jnp.dtype(dtype)}
    wide = jax.tree.map(lambda value: value.astype(jnp.float32), values)
    expected = stride_two.conv_down(wide["x"], wide["kernel"])
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
    ours = gradient(values["kernel"], stride_two.conv_down)
    plain = gradient(values["kernel"], stride_two._plain_conv)
    # Elements are up to 100, and those near zero are differences of such.
    chex.assert_trees_all_close(ours, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["conv_s2_a", "conv_s2_b"])
def test_conv_down_equals_pytorch(case: str) -> None:
    _check_against_golden(case, stride_two.conv_down)


@pytest.mark.parametrize("case", ["conv_transpose_s2_a", "conv_transpose_s2_b"])
def test_conv_up_equals_pytorch(case: str) -> None:
    _check_against_golden(case, lambda x, kernel: stride_two.conv_up(x, kernel.swapaxes(2, 3)))


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


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-4), (jnp.bfloat16, 3e-2)])
@pytest.mark.parametrize("batch_size", [5, 6, 8])
def test_conv_valid_and_its_gradients_equal_the_plain_ones(
    batch_size: int, dtype: jnp.dtype, tolerance: float
) -> None:
    keys = jax.random.split(jax.random.key(1), 3)
    x = jax.random.normal(keys[0], (batch_size, 9, 7, 4)).astype(dtype)
    kernel = jax.random.normal(keys[1], (3, 3, 4, 5)).astype(dtype)
    cotangent = jax.random.normal(keys[2], (batch_size, 7, 5, 5)).astype(dtype)

    def everything(conv: Callable) -> list[jax.Array]:
        value, gradients = jax.vjp(conv, x, kernel)
        return [value, *gradients(cotangent)]

    plain_forms = [
        stride_one._plain_valid(x, kernel),
        stride_one._plain_valid_input_gradient(cotangent, kernel),
        stride_one._plain_valid_kernel_gradient(x, cotangent),
    ]
    reference = jax.jit(lambda: everything(stride_one._plain_valid))()
    for ours in (jax.jit(lambda: everything(stride_one.conv_valid))(), plain_forms):
        for value, expected in zip(ours, reference, strict=True):
            assert value.dtype == dtype
            scale = jnp.abs(expected).max().astype(jnp.float32)
            assert jnp.abs((value - expected).astype(jnp.float32)).max() <= tolerance * scale


def test_winograds_forms_of_a_valid_convolution_equal_the_plain_ones() -> None:
    channels = 128
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (12, 6, 6, channels))
    kernel = jax.random.normal(keys[1], (3, 3, channels, 5))
    y = jax.random.normal(keys[2], (12, 4, 4, 5))
    value, gradients = jax.vjp(stride_one._plain_valid, x, kernel)
    for_input, for_kernel = gradients(y)
    chex.assert_trees_all_close(stride_one._cpu_valid(x, kernel), value, atol=1e-3)
    ours = stride_one._cpu_valid_input_gradient(y, kernel)
    chex.assert_trees_all_close(ours, for_input, atol=1e-3)
    ours = stride_one._cpu_valid_kernel_gradient(x, y)
    chex.assert_trees_all_close(ours, for_kernel, atol=1e-3)


def test_conv_valid_differentiates_twice() -> None:
    keys = jax.random.split(jax.random.key(1), 2)
    x, kernel = jax.random.normal(keys[0], (2, 6, 6, 3)), jax.random.normal(keys[1], (3, 3, 3, 2))

    def penalty(conv: Callable, x: jax.Array, kernel: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda x: jnp.sin(conv(x, kernel)).sum())(x)
        return (gradient**2).sum()

    ours, plain = (
        jax.grad(penalty, (1, 2))(conv, x, kernel)
        for conv in (stride_one.conv_valid, stride_one._plain_valid)
    )
    chex.assert_trees_all_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_max_pool_takes_maxima_drops_the_rest_and_shares_ties() -> None:
    x = jnp.array([[1.0, 2.0, 9.0], [3.0, 3.0, 9.0], [9.0, 9.0, 9.0]])[None, :, :, None]
    pooled, gradients = jax.vjp(lambda x: stride_one.max_pool(x, 2), x)
    chex.assert_trees_all_equal(pooled, jnp.full((1, 1, 1, 1), 3.0))
    (gradient,) = gradients(jnp.ones_like(pooled))
    expected = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    chex.assert_trees_all_equal(gradient[0, :, :, 0], jnp.array(expected))


def test_pointwise_conv_pool_is_a_product_and_a_maximum() -> None:
    keys = jax.random.split(jax.random.key(2), 3)
    x, kernel = jax.random.normal(keys[0], (6, 8, 6, 3)), jax.random.normal(keys[1], (3, 7))
    # Equal pixels tie: their share of the gradient must agree too.
    x = x.at[0, :2, :2].set(0.25)
    cotangent = jax.random.normal(keys[2], (6, 4, 3, 7))
    ours, our_gradients = jax.vjp(stride_one.pointwise_conv_pool, x, kernel)
    plain, plain_gradients = jax.vjp(
        lambda x, kernel: stride_one.max_pool(x @ kernel, 2), x, kernel
    )
    chex.assert_trees_all_close(ours, plain, atol=1e-5)
    chex.assert_trees_all_close(our_gradients(cotangent), plain_gradients(cotangent), atol=1e-4)


def test_accelerators_get_plain_convolutions() -> None:
    """On CUDA and TPU the layer and both gradients lower to convolutions, and to no product."""
    values = _operands(8, 16, 6)

    def everything(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
        def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.sin(stride_two.conv_down(x, kernel)).sum()

        return loss(x, kernel), *jax.grad(loss, (0, 1))(x, kernel)

    def lowered(*platforms: str) -> str:
        exported = export.export(jax.jit(everything), platforms=platforms)
        return exported(values["x"], values["kernel"]).mlir_module()

    assert lowered("cpu").count("stablehlo.dot_general") >= 3 * 9
    for platform in ("cuda", "tpu"):
        module = lowered(platform)
        assert "stablehlo.dot_general" not in module
        assert module.count("stablehlo.convolution") >= 3
    both = lowered("cpu", "cuda", "tpu")
    assert "stablehlo.dot_general" in both
    assert "stablehlo.convolution" in both


def test_the_steps_lower_for_every_platform_at_once() -> None:
    """The paper's GAN and CNN: on accelerators every strided layer is a plain convolution."""
    tx = optax.adam(1e-3)
    nets = {"generator": dcgan.Generator(), "discriminator": dcgan.Discriminator()}
    fixed = {**nets, "g_tx": tx, "d_tx": tx, "latent_size": 8}
    key = jax.random.key(0)
    image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8)
    gan_state = jax.eval_shape(partial(state.create_gan_state, **fixed, image_size=64), key)
    gan_step = jax.jit(partial(gan.train_step, **fixed))
    model, policy = LesionCNN(), augmentation.find_policy("paper")
    create = partial(state.create_classifier_state, model=model, tx=tx, image_size=64)
    cnn_state = jax.eval_shape(create, key)
    cnn_step = jax.jit(partial(classifier.train_step, model=model, tx=tx, policy=policy))
    label = jax.ShapeDtypeStruct((2,), jnp.int32)
    for step, first, batch in (
        (gan_step, gan_state, {"image": image}),
        (cnn_step, cnn_state, {"image": image, "label": label}),
    ):
        exported = export.export(step, platforms=("cpu", "cuda", "tpu"))(first, batch, key)
        assert exported.platforms == ("cpu", "cuda", "tpu")
    plain = [
        export.export(gan_step, platforms=[platform])(gan_state, {"image": image}, key)
        for platform in ("cuda", "tpu")
    ]
    counts = [each.mlir_module().count("stablehlo.convolution") for each in plain]
    # The discriminator's part: 4 layers generate, 8 score, 8 + 6 gradients. The generator's: 4
    # generate, 4 score, 4 input gradients through the discriminator, 4 + 3 of its own.
    assert counts[0] == counts[1] >= 45


def _plain_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _upsampled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _plain_same(x.repeat(2, axis=1).repeat(2, axis=2), kernel)


def _pooled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    y = _plain_same(x, kernel)
    batch, height, width, channels = y.shape
    return y.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


@pytest.mark.parametrize("side", [4, 16])
@pytest.mark.parametrize(
    ("layer", "plain"),
    [
        (layers.ConvSame(5), _plain_same),
        (layers.UpsampleConv(5), _upsampled),
        (layers.ConvMeanPool(5), _pooled),
    ],
)
def test_three_by_three_layers_equal_their_steps(layer: Any, plain: Any, side: int) -> None:
    """Values and gradients of two orders, on maps of sides that have forms of their own."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2, side, side, 3))
    kernel = jax.random.normal(keys[1], (3, 3, 3, 5)) / 6

    def ours(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return layer.apply({"params": {"kernel": kernel}}, x)

    def slope(form: Any) -> Any:
        return jax.grad(lambda x, kernel: jnp.sin(form(x, kernel)).sum(), (0, 1))

    def curvature(form: Any) -> Any:
        return jax.grad(
            lambda x, kernel: sum(jnp.sin(part).sum() for part in slope(form)(x, kernel)), (0, 1)
        )

    for order in (lambda form: form, slope, curvature):
        expected, found = (jax.jit(order(form))(x, kernel) for form in (plain, ours))
        for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert float(jnp.abs(mine - theirs).max()) <= 1e-4 * float(jnp.abs(theirs).max())
