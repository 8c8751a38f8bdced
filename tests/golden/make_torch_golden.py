"""Makes layers.npz and dcgan.npz with PyTorch: `python make_torch_golden.py` (torch 2.13.0, CPU).

Everything is computed in float64 from the float32 numbers of `formula.py` and stored as float32, so
the stored values carry no rounding of PyTorch's own. README.md in this folder describes each array.
"""

from __future__ import annotations

import itertools
import pathlib

import numpy as np
import torch
from formula import formula
from torch import nn
from torch.nn import functional

FOLDER = pathlib.Path(__file__).parent
BATCH, LATENT, WIDTH = 3, 16, 8
LEARNING_RATE, BETAS = 2e-4, (0.5, 0.999)


def to_torch(array: np.ndarray) -> torch.Tensor:
    """NHWC to NCHW for images, anything else as it is; float64."""
    if array.ndim == 4:
        array = array.transpose(0, 3, 1, 2)
    return torch.tensor(np.ascontiguousarray(array), dtype=torch.float64)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """NCHW to NHWC for images, anything else as it is; float64."""
    # A copy: .numpy() is a view, and later updates would show through it.
    array = tensor.detach().numpy().copy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


# A kernel is HWIO here; PyTorch keeps OIHW for convolutions and IOHW for transposed ones.
TO_PYTORCH = {"conv": (3, 2, 0, 1), "conv_transpose": (2, 3, 0, 1)}
FROM_PYTORCH = {"conv": (2, 3, 1, 0), "conv_transpose": (2, 3, 0, 1)}


def kernel_to_torch(kernel: np.ndarray, kind: str) -> torch.Tensor:
    return torch.tensor(kernel.transpose(TO_PYTORCH[kind]).copy(), dtype=torch.float64)


def kernel_to_numpy(kernel: torch.Tensor, kind: str) -> np.ndarray:
    return kernel.detach().numpy().copy().transpose(FROM_PYTORCH[kind])


LAYER_CASES = {  # name: (kind, stride, padding, input NHWC, output channels)
    "conv_s2_a": ("conv", 2, 1, (2, 8, 8, 3), 5),
    "conv_s2_b": ("conv", 2, 1, (1, 10, 6, 5), 7),
    "conv_s1_a": ("conv", 1, 0, (2, 4, 4, 7), 1),
    "conv_s1_b": ("conv", 1, 0, (2, 7, 6, 3), 5),
    "conv_transpose_s2_a": ("conv_transpose", 2, 1, (2, 4, 4, 5), 3),
    "conv_transpose_s2_b": ("conv_transpose", 2, 1, (1, 3, 5, 7), 2),
    "conv_transpose_s1_a": ("conv_transpose", 1, 0, (2, 1, 1, 6), 5),
    "conv_transpose_s1_b": ("conv_transpose", 1, 0, (1, 3, 2, 3), 5),
}


def convolution_cases() -> dict[str, np.ndarray]:
    """Output, and the gradients of sum(output * cotangent), of each case."""
    arrays = {}
    for name, (kind, stride, padding, shape, features) in LAYER_CASES.items():
        x = to_torch(formula(shape, seed=1)).requires_grad_()
        kernel = formula((4, 4, shape[-1], features), seed=2, scale=0.1)
        weight = kernel_to_torch(kernel, kind).requires_grad_()
        operation = functional.conv2d if kind == "conv" else functional.conv_transpose2d
        y = operation(x, weight, stride=stride, padding=padding)
        cotangent = to_torch(formula(to_numpy(y).shape, seed=3))
        (y * cotangent).sum().backward()
        arrays[f"{name}/output"] = to_numpy(y)
        arrays[f"{name}/input_grad"] = to_numpy(x.grad)
        arrays[f"{name}/kernel_grad"] = kernel_to_numpy(weight.grad, kind)
    return arrays


def normalisation_cases() -> dict[str, np.ndarray]:
    """BatchNorm in both modes with its running statistics, and LeakyReLU."""
    channels = 5
    x = to_torch(formula((2, 3, 4, channels), seed=4, scale=2.0, shift=0.5)).requires_grad_()
    norm = make_batch_norm(channels, seed=5)
    y = norm(x)
    (y * to_torch(formula((2, 3, 4, channels), seed=3))).sum().backward()
    biased = x.detach().var(dim=(0, 2, 3), unbiased=False)
    start = torch.tensor(formula((channels,), seed=8, scale=0.5, shift=1.0), dtype=torch.float64)
    arrays = {
        "batch_norm/train_output": to_numpy(y),
        "batch_norm/input_grad": to_numpy(x.grad),
        "batch_norm/scale_grad": to_numpy(norm.weight.grad),
        "batch_norm/bias_grad": to_numpy(norm.bias.grad),
        "batch_norm/running_mean": to_numpy(norm.running_mean),
        "batch_norm/running_var_unbiased": to_numpy(norm.running_var),
        "batch_norm/running_var_biased": to_numpy(0.9 * start + 0.1 * biased),
    }
    fresh = make_batch_norm(channels, seed=5).eval()
    arrays["batch_norm/eval_output"] = to_numpy(fresh(x))
    arrays["leaky_relu/output"] = to_numpy(functional.leaky_relu(x, 0.2))
    return arrays


def make_batch_norm(channels: int, *, seed: int) -> nn.BatchNorm2d:
    """BatchNorm with scale, bias, running mean and variance of formula seeds seed .. seed + 3."""
    norm = nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(formula((channels,), seed=seed, scale=0.2, shift=1.0)))
        norm.bias.copy_(torch.tensor(formula((channels,), seed=seed + 1, scale=0.1)))
        norm.running_mean.copy_(torch.tensor(formula((channels,), seed=seed + 2, scale=0.1)))
        norm.running_var.copy_(
            torch.tensor(formula((channels,), seed=seed + 3, scale=0.5, shift=1.0))
        )
    return norm


class Generator(nn.Module):
    """The paper's generator: latent 1x1 to 64x64x3 in five transposed convolutions."""

    kind = "conv_transpose"

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        sizes = [latent, 8 * width, 4 * width, 2 * width, width, 3]
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=1 if i == 0 else 2, padding=int(i > 0), bias=False)
            for i, (a, b) in enumerate(itertools.pairwise(sizes))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in sizes[1:-1])

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = z[:, :, None, None]
        for conv, norm in zip(self.convs, self.norms, strict=False):
            x = functional.relu(norm(conv(x)))
        return torch.tanh(self.convs[-1](x))


class Discriminator(nn.Module):
    """The paper's discriminator: 64x64x3 to one logit, BatchNorm on the first layer too."""

    kind = "conv"

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width, 8 * width]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False)
            for a, b in itertools.pairwise(sizes)
        )
        self.convs.append(nn.Conv2d(8 * width, 1, 4, bias=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in sizes[1:])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image
        for conv, norm in zip(self.convs, self.norms, strict=False):
            x = functional.leaky_relu(norm(conv(x)), 0.2)
        return self.convs[-1](x).flatten()


def fill(net: Generator | Discriminator, *, seed: int) -> Generator | Discriminator:
    """Gives layer n the formula seeds seed + 10 n (kernel), and + 1 .. + 4 (its BatchNorm)."""
    net = net.double()
    for n, conv in enumerate(net.convs):
        shape = tuple(conv.weight.permute(FROM_PYTORCH[net.kind]).shape)
        kernel = formula(shape, seed=seed + 10 * n, scale=0.1)
        conv.weight.data = kernel_to_torch(kernel, net.kind)
    for n, norm in enumerate(net.norms):
        norm.load_state_dict(
            make_batch_norm(norm.num_features, seed=seed + 10 * n + 1).state_dict()
        )
    return net


def snapshot(net: Generator | Discriminator, prefix: str, *, grad: bool) -> dict[str, np.ndarray]:
    """Parameters or gradients; of each kernel only the first 8 input and 8 output channels."""
    arrays = {}
    for n, conv in enumerate(net.convs):
        value = conv.weight.grad if grad else conv.weight
        arrays[f"{prefix}/conv{n}"] = kernel_to_numpy(value, net.kind)[:, :, :8, :8]
    for n, norm in enumerate(net.norms):
        arrays[f"{prefix}/norm{n}/scale"] = to_numpy(norm.weight.grad if grad else norm.weight)
        arrays[f"{prefix}/norm{n}/bias"] = to_numpy(norm.bias.grad if grad else norm.bias)
    return arrays


class BiasedStatistics:
    """Each BatchNorm's running variance as Flax keeps it (no n/(n-1)), beside PyTorch's own."""

    def __init__(self, net: Generator | Discriminator) -> None:
        self.norms = list(net.norms)
        self.variance = [norm.running_var.clone() for norm in self.norms]
        for n, norm in enumerate(self.norms):
            norm.register_forward_hook(lambda _, inputs, __, n=n: self.update(n, inputs[0]))

    def update(self, n: int, x: torch.Tensor) -> None:
        biased = x.detach().var(dim=(0, 2, 3), unbiased=False)
        self.variance[n] = 0.9 * self.variance[n] + 0.1 * biased

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        result = {}
        for n, norm in enumerate(self.norms):
            result[f"{prefix}/norm{n}/mean"] = to_numpy(norm.running_mean)
            result[f"{prefix}/norm{n}/var_unbiased"] = to_numpy(norm.running_var)
            result[f"{prefix}/norm{n}/var_biased"] = to_numpy(self.variance[n])
        return result


def forward_cases(real: torch.Tensor, z: torch.Tensor) -> dict[str, np.ndarray]:
    """Outputs of both networks in both modes, each from freshly filled networks."""
    arrays = {}
    for mode in ("train", "eval"):
        generator = fill(Generator(WIDTH, LATENT), seed=100).train(mode == "train")
        discriminator = fill(Discriminator(WIDTH), seed=200).train(mode == "train")
        arrays[f"generator/{mode}_output"] = to_numpy(generator(z))
        arrays[f"discriminator/{mode}_output"] = to_numpy(discriminator(real))
    return arrays


def step_cases(real: torch.Tensor, z_d: torch.Tensor, z_g: torch.Tensor) -> dict[str, np.ndarray]:
    """Two training steps on the same numbers: the second shows Adam's moments at work."""
    generator = fill(Generator(WIDTH, LATENT), seed=100)
    discriminator = fill(Discriminator(WIDTH), seed=200)
    g_statistics, d_statistics = BiasedStatistics(generator), BiasedStatistics(discriminator)
    d_tx = torch.optim.Adam(discriminator.parameters(), lr=LEARNING_RATE, betas=BETAS)
    g_tx = torch.optim.Adam(generator.parameters(), lr=LEARNING_RATE, betas=BETAS)
    arrays = {}
    for prefix in ("step1", "step2"):
        arrays |= update(prefix, generator, discriminator, g_tx, d_tx, real, z_d, z_g)
        arrays |= d_statistics.arrays(f"{prefix}/d_stats")
        arrays |= g_statistics.arrays(f"{prefix}/g_stats")
    return arrays


def update(
    prefix: str,
    generator: Generator,
    discriminator: Discriminator,
    g_tx: torch.optim.Adam,
    d_tx: torch.optim.Adam,
    real: torch.Tensor,
    z_d: torch.Tensor,
    z_g: torch.Tensor,
) -> dict[str, np.ndarray]:
    """Updates the discriminator, then the generator through the updated discriminator."""
    bce = functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(BATCH).double(), torch.zeros(BATCH).double()

    d_tx.zero_grad()
    real_logits = discriminator(real)
    fake_logits = discriminator(generator(z_d).detach())
    d_loss_real, d_loss_fake = bce(real_logits, ones), bce(fake_logits, zeros)
    (d_loss_real + d_loss_fake).backward()
    arrays = snapshot(discriminator, f"{prefix}/d_grad", grad=True)
    d_tx.step()
    arrays |= snapshot(discriminator, f"{prefix}/d_params", grad=False)

    g_tx.zero_grad()
    updated_logits = discriminator(generator(z_g))
    g_loss = bce(updated_logits, ones)
    g_loss.backward()
    arrays |= snapshot(generator, f"{prefix}/g_grad", grad=True)
    g_tx.step()
    arrays |= snapshot(generator, f"{prefix}/g_params", grad=False)
    return arrays | {
        f"{prefix}/real_logits": to_numpy(real_logits),
        f"{prefix}/fake_logits": to_numpy(fake_logits),
        f"{prefix}/updated_logits": to_numpy(updated_logits),
        f"{prefix}/d_loss_real": to_numpy(d_loss_real),
        f"{prefix}/d_loss_fake": to_numpy(d_loss_fake),
        f"{prefix}/d_loss": to_numpy(d_loss_real + d_loss_fake),
        f"{prefix}/g_loss": to_numpy(g_loss),
    }


def full_width_case() -> dict[str, np.ndarray]:
    """Parameter counts at the paper's width, and the bounds of PyTorch's own initialisation."""
    generator, discriminator = Generator(64, 512), Discriminator(64)
    arrays = {}
    for name, net in (("generator", generator), ("discriminator", discriminator)):
        count = sum(parameter.numel() for parameter in net.parameters())
        arrays[f"{name}/num_params"] = np.array(count)
        # PyTorch takes weight.shape[1] * 16 as the fan-in, which for a transposed convolution is
        # the number of *output* channels times 16.
        bounds = np.array([(conv.weight.shape[1] * 16) ** -0.5 for conv in net.convs])
        for bound, conv in zip(bounds, net.convs, strict=True):
            largest = conv.weight.abs().max().item()
            assert 0.97 * bound < largest <= bound + 1e-7, (largest, bound)
        arrays[f"{name}/init_bound"] = bounds
    assert arrays["generator/num_params"] == 6_951_808
    assert arrays["discriminator/num_params"] == 2_765_696
    return arrays


def save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    small = {
        name: np.asarray(value, np.float32 if np.asarray(value).dtype.kind == "f" else np.int64)
        for name, value in arrays.items()
    }
    np.savez_compressed(path, **small)
    print(path.name, len(small), "arrays", path.stat().st_size, "bytes")


def main() -> None:
    torch.manual_seed(0)
    real = to_torch(formula((BATCH, 64, 64, 3), seed=20))
    z, z_d, z_g = (
        torch.tensor(formula((BATCH, LATENT), seed=seed, scale=2.0), dtype=torch.float64)
        for seed in (21, 22, 23)
    )
    save(FOLDER / "layers.npz", convolution_cases() | normalisation_cases())
    save(
        FOLDER / "dcgan.npz",
        forward_cases(real, z) | step_cases(real, z_d, z_g) | full_width_case(),
    )


if __name__ == "__main__":
    main()
