"""The paper's networks: sizes, and values made with PyTorch and Keras (see golden/README.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden.formula import formula

from dermagan_jax import gan, losses
from dermagan_jax.nets.dcgan import Discriminator, Generator
from dermagan_jax.nets.lesion_cnn import LesionCNN
from dermagan_jax.rules import Noise
from dermagan_jax.state import GanState, NetState

GOLDEN = Path(__file__).parent / "golden"


def _count(module: Any, *inputs: jax.Array) -> int:
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, train=False))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"]))


def test_parameter_counts_are_the_papers() -> None:
    image = jnp.zeros((1, 64, 64, 3))
    assert _count(Generator(), jnp.zeros((1, 512))) == 6_951_808
    assert _count(Discriminator(), image) == 2_765_696
    assert _count(LesionCNN(), image) == 521_758


@pytest.mark.parametrize("size", [32, 128])
def test_other_sizes_follow_the_same_rule(size: int) -> None:
    z, image = jnp.zeros((2, 8)), jnp.zeros((2, size, size, 3))
    generator, discriminator = Generator(width=2, image_size=size), Discriminator(width=2)

    def shapes() -> tuple[jax.Array, jax.Array]:
        key = jax.random.key(0)
        g, d = (
            module.init(key, example, train=False)
            for module, example in ((generator, z), (discriminator, image))
        )
        return generator.apply(g, z, train=False), discriminator.apply(d, image, train=False)

    generated, logits = jax.eval_shape(shapes)
    chex.assert_shape(generated, (2, size, size, 3))
    chex.assert_shape(logits, (2,))


@pytest.mark.parametrize("size", [48, 4, 100])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="4 times a power of two"):
        Generator(image_size=size).init(jax.random.key(0), jnp.zeros((1, 8)), train=False)


GENERATOR_KERNELS = [(4, 4, 16, 64), (4, 4, 64, 32), (4, 4, 32, 16), (4, 4, 16, 8), (4, 4, 8, 3)]
DISCRIMINATOR_KERNELS = [(4, 4, 3, 8), (4, 4, 8, 16), (4, 4, 16, 32), (4, 4, 32, 64), (4, 4, 64, 1)]


def _golden_variables(
    kernels: list[tuple[int, ...]], base: int, own: int, layer: str
) -> dict[str, Any]:
    """Builds the variables of golden/README.md; `own` is the layer that is a matrix product."""
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    for n, shape in enumerate(kernels):
        kernel = jnp.asarray(formula(shape, seed=base + 10 * n, scale=0.1))
        if n == own:
            params["kernel"] = kernel
        else:
            params[f"{layer}_{n - 1 if own == 0 else n}"] = {"kernel": kernel}
        if n < len(kernels) - 1:
            seeds = [base + 10 * n + offset for offset in (1, 2, 3, 4)]
            size = (shape[-1],)
            params[f"BatchNorm_{n}"] = {
                "scale": jnp.asarray(formula(size, seed=seeds[0], scale=0.2, shift=1.0)),
                "bias": jnp.asarray(formula(size, seed=seeds[1], scale=0.1)),
            }
            stats[f"BatchNorm_{n}"] = {
                "mean": jnp.asarray(formula(size, seed=seeds[2], scale=0.1)),
                "var": jnp.asarray(formula(size, seed=seeds[3], scale=0.5, shift=1.0)),
            }
    return {"params": params, "batch_stats": stats}


def _golden_gan() -> tuple[Generator, Discriminator, dict[str, Any], dict[str, Any]]:
    g = _golden_variables(GENERATOR_KERNELS, 100, own=0, layer="ConvUp")
    d = _golden_variables(DISCRIMINATOR_KERNELS, 200, own=4, layer="ConvDown")
    return Generator(width=8), Discriminator(width=8), g, d


@pytest.fixture(scope="module")
def dcgan_values() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "dcgan.npz") as stored:
        return dict(stored)


def _latents(seed: int) -> jax.Array:
    return jnp.asarray(formula((3, 16), seed=seed, scale=2.0))


REAL = formula((3, 64, 64, 3), seed=20)


@pytest.mark.parametrize("train", [True, False])
def test_gan_outputs_equal_pytorch(train: bool, dcgan_values: dict[str, np.ndarray]) -> None:
    generator, discriminator, g, d = _golden_gan()
    mutable = ["batch_stats"] if train else False

    @jax.jit
    def outputs() -> tuple[Any, Any]:
        generated = generator.apply(g, _latents(21), train=train, mutable=mutable)
        logits = discriminator.apply(d, jnp.asarray(REAL), train=train, mutable=mutable)
        return (generated[0], logits[0]) if train else (generated, logits)

    mode = "train" if train else "eval"
    generated, logits = outputs()
    chex.assert_trees_all_close(generated, dcgan_values[f"generator/{mode}_output"], atol=2e-5)
    chex.assert_trees_all_close(logits, dcgan_values[f"discriminator/{mode}_output"], atol=2e-5)


def test_two_training_steps_equal_pytorch(dcgan_values: dict[str, np.ndarray]) -> None:
    generator, discriminator, g, d = _golden_gan()
    tx = optax.adam(2e-4, b1=0.5, b2=0.999)
    state = GanState(
        jnp.zeros((), jnp.int32),
        NetState(g["params"], g["batch_stats"], tx.init(g["params"])),
        NetState(d["params"], d["batch_stats"], tx.init(d["params"])),
        g["params"],
    )

    @jax.jit
    def update(state: GanState) -> tuple[GanState, dict[str, jax.Array]]:
        return gan.update(
            state,
            jnp.asarray(REAL),
            None,
            Noise(_latents(22), _latents(23), jnp.zeros((3, len(REAL), 0)), jnp.zeros(len(REAL))),
            generator=generator,
            discriminator=discriminator,
            g_tx=tx,
            d_tx=tx,
        )

    for step in ("step1", "step2"):
        state, metrics = update(state)
        for name in ("d_loss", "g_loss"):
            chex.assert_trees_all_close(metrics[name], dcgan_values[f"{step}/{name}"], rtol=1e-4)
        for net, kernels, layer in (
            ("d", state.d.params, [f"ConvDown_{n}" for n in range(4)] + [None]),
            ("g", state.g.params, [None] + [f"ConvUp_{n}" for n in range(4)]),
        ):
            for n, name in enumerate(layer):
                kernel = kernels["kernel"] if name is None else kernels[name]["kernel"]
                expected = dcgan_values[f"{step}/{net}_params/conv{n}"]
                # Adam moves every weight by about 2e-4, so this sees a hundredth of a step.
                chex.assert_trees_all_close(kernel[:, :, :8, :8], expected, atol=2e-6)
                if n < 4:
                    norm = {
                        part: dcgan_values[f"{step}/{net}_params/norm{n}/{part}"]
                        for part in ("scale", "bias")
                    }
                    if net == "d" or name is not None or n == 0:
                        chex.assert_trees_all_close(kernels[f"BatchNorm_{n}"], norm, atol=2e-6)


def _cnn_params() -> dict[str, Any]:
    shapes = {
        "PointwiseConvPool_0": (1, 1, 3, 60),
        "ConvValid_0": (3, 3, 60, 50),
        "Dense_0": (1800, 256),
        "Dense_1": (256, 128),
        "Dense_2": (128, 4),
    }
    params = {}
    for n, (name, shape) in enumerate(shapes.items()):
        area = int(np.prod(shape[:-2]))
        bound = (6 / (area * (shape[-2] + shape[-1]))) ** 0.5
        kernel = formula(shape, seed=300 + 10 * n, scale=bound)
        params[name] = {
            "kernel": jnp.asarray(kernel[0, 0] if shape[:2] == (1, 1) else kernel),
            "bias": jnp.asarray(formula((shape[-1],), seed=301 + 10 * n, scale=0.05)),
        }
    return params


def test_cnn_and_its_adam_step_equal_keras() -> None:
    with np.load(GOLDEN / "lesion_cnn.npz") as stored:
        expected = dict(stored)
    model, params = LesionCNN(), _cnn_params()
    image = jnp.asarray(formula((3, 64, 64, 3), seed=30))
    tx = optax.adam(1e-3, eps=1e-7)

    @jax.jit
    def step(params: Any) -> tuple[jax.Array, jax.Array, Any, Any]:
        def loss_fn(params: Any) -> tuple[jax.Array, jax.Array]:
            logits = model.apply({"params": params}, image, train=False)
            return losses.cross_entropy(logits, jax.nn.one_hot(expected["labels"], 4)), logits

        (loss, logits), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, _ = tx.update(gradients, tx.init(params), params)
        return logits, loss, gradients, optax.apply_updates(params, updates)

    logits, loss, gradients, after = step(params)
    chex.assert_trees_all_close(logits, expected["logits"], atol=1e-5)
    chex.assert_trees_all_close(loss, expected["loss"], rtol=1e-5)
    names = ["conv0", "conv1", "dense0", "dense1", "dense2"]
    for name, ours in zip(names, params, strict=True):
        for part in ("kernel", "bias"):
            norm = jnp.linalg.norm(gradients[ours][part].ravel())
            chex.assert_trees_all_close(norm, expected[f"grad_norm/{name}/{part}"], rtol=1e-4)
        bias = after[ours]["bias"]
        chex.assert_trees_all_close(bias, expected[f"adam_textbook/{name}/bias"], atol=2e-5)


def test_initial_weights_are_the_libraries_own() -> None:
    """PyTorch's uniform bound for the GAN, Glorot's for the CNN, to a percent of the bound."""
    with np.load(GOLDEN / "dcgan.npz") as stored:
        bounds = stored["generator/init_bound"]
    params = Generator().init(jax.random.key(0), jnp.zeros((1, 512)), train=False)["params"]
    kernels = [params["kernel"], *(params[f"ConvUp_{n}"]["kernel"] for n in range(4))]
    highest = [float(jnp.abs(kernel).max()) for kernel in kernels]
    np.testing.assert_allclose(highest, bounds, rtol=0.01)
    cnn = LesionCNN().init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)["params"]
    glorot = (6 / (1800 + 256)) ** 0.5
    assert float(jnp.abs(cnn["Dense_0"]["kernel"]).max()) == pytest.approx(glorot, rel=0.01)
    assert not cnn["Dense_0"]["bias"].any()


def test_dropout_only_in_training() -> None:
    model, image = LesionCNN(dropout_rate=0.5), jnp.asarray(formula((2, 64, 64, 3), seed=1))
    params = {"params": _cnn_params()}
    one, other = (
        model.apply(params, image, train=True, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 1)
    )
    assert not np.allclose(one, other)
    chex.assert_trees_all_equal(
        model.apply(params, image, train=False),
        LesionCNN(dropout_rate=0.0).apply(params, image, train=False),
    )
