"""PyTorch's side of each job, written as a careful PyTorch user would."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

Work = Callable[[int], Any]

VERSIONS = {"torch": torch.__version__}
LATENT_SIZE = 512
IMAGE_SIZE = 64


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _generator() -> nn.Module:
    layers: list[nn.Module] = []
    sizes = [LATENT_SIZE, 512, 256, 128, 64]
    for index, (before, after) in enumerate(itertools.pairwise(sizes)):
        stride, padding = (1, 0) if index == 0 else (2, 1)
        conv = nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False)
        layers += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh())


def _discriminator() -> nn.Module:
    layers: list[nn.Module] = []
    sizes = [3, 64, 128, 256, 512]
    for before, after in itertools.pairwise(sizes):
        conv = nn.Conv2d(before, after, 4, 2, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(after), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(512, 1, 4, 1, 0, bias=False), nn.Flatten(0))


def _random_images(batch_size: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    shape = (batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
    return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))


def _to_float(image: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    return (image.float() / 127.5 - 1.0).contiguous(memory_format=layout)


def gan_step(*, batch_size: int, channels_last: bool = False, compiled: bool = False) -> Work:
    """One update of the discriminator, the generator detached, and one of the generator."""
    layout = _layout(channels_last)
    generator = _generator().to(memory_format=layout)
    discriminator = _discriminator().to(memory_format=layout)
    g_opt = torch.optim.Adam(generator.parameters(), 2e-4, betas=(0.5, 0.999))
    d_opt = torch.optim.Adam(discriminator.parameters(), 2e-4, betas=(0.5, 0.999))
    average = [parameter.detach().clone() for parameter in generator.parameters()]
    image = _random_images(batch_size)
    bce = functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(batch_size), torch.zeros(batch_size)

    def latents() -> torch.Tensor:
        return torch.randn(batch_size, LATENT_SIZE, 1, 1)

    def losses() -> tuple[float, float]:
        real = _to_float(image, layout)
        with torch.no_grad():
            fake = generator(latents())
        d_loss = bce(discriminator(real), ones) + bce(discriminator(fake), zeros)
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        discriminator.requires_grad_(False)
        g_loss = bce(discriminator(generator(latents())), ones)
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        discriminator.requires_grad_(True)
        torch._foreach_lerp_(average, list(generator.parameters()), 0.001)
        return d_loss.item(), g_loss.item()

    if compiled:
        generator.compile()
        discriminator.compile()

    def work(count: int) -> None:
        for _ in range(count):
            losses()

    return work


def _cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 60, 1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(60, 50, 3), nn.ReLU(inplace=True), nn.MaxPool2d(5)),
        *(nn.Flatten(), nn.Linear(1800, 256), nn.ReLU(inplace=True), nn.Dropout(0.2)),
        *(nn.Linear(256, 128), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(128, 4)),
    )


def _between(count: int, low: float, high: float) -> torch.Tensor:
    return low + (high - low) * torch.rand(count)


def _augment(image: torch.Tensor) -> torch.Tensor:
    """The notebooks' rotation, shear, shift, zoom, flip and brightness, in one bilinear warp."""
    count = len(image)
    angle = torch.deg2rad(_between(count, -40, 40))
    shear = torch.deg2rad(_between(count, -0.2, 0.2))
    zoom = _between(2 * count, 0.6, 1.4).view(2, count)
    flip = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = cos * zoom[0] * flip
    theta[:, 0, 1] = (-sin * torch.cos(shear) - cos * torch.sin(shear)) * zoom[1]
    theta[:, 1, 0] = sin * zoom[0] * flip
    theta[:, 1, 1] = (cos * torch.cos(shear) - sin * torch.sin(shear)) * zoom[1]
    theta[:, :, 2] = _between(2 * count, -0.4, 0.4).view(count, 2)
    grid = functional.affine_grid(theta, list(image.shape), align_corners=False)
    moved = functional.grid_sample(
        image, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    brightness = _between(count, 0.8, 1.2).view(count, 1, 1, 1)
    return ((moved + 1) / 2 * brightness).clamp(0, 1) * 2 - 1


class _CnnStepper:
    def __init__(self, channels_last: bool, compiled: bool, policy: str) -> None:
        self.layout = _layout(channels_last)
        self.net = _cnn().to(memory_format=self.layout)
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-3)
        self.augments = policy != "none"
        if compiled:
            self.net.compile()

    def __call__(self, image: torch.Tensor, label: torch.Tensor) -> tuple[float, float]:
        batch = _to_float(image, self.layout)
        if self.augments:
            batch = _augment(batch)
        logits = self.net(batch)
        loss = functional.cross_entropy(logits, label)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item(), (logits.argmax(1) == label).float().mean().item()


def cnn_step(
    *, batch_size: int, policy: str, channels_last: bool = False, compiled: bool = False
) -> Work:
    """One update of the paper's CNN on a batch of 8-bit images."""
    step = _CnnStepper(channels_last, compiled, policy)
    image = _random_images(batch_size)
    label = torch.randint(0, 4, (batch_size,))

    def work(count: int) -> None:
        for _ in range(count):
            step(image, label)

    return work


def generate(*, batch_size: int, channels_last: bool = False, compiled: bool = False) -> Work:
    """Latents to 8-bit images on the host."""
    generator = _generator().to(memory_format=_layout(channels_last)).eval()
    if compiled:
        generator.compile()

    @torch.inference_mode()
    def work(count: int) -> None:
        for _ in range(count):
            image = generator(torch.randn(batch_size, LATENT_SIZE, 1, 1))
            pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            pixels.permute(0, 2, 3, 1).contiguous().numpy()

    return work


class _ClassFolders(torch.utils.data.Dataset):
    """What torchvision's ImageFolder does, whose package does not fit PyTorch's CPU build."""

    def __init__(self, root: Path) -> None:
        folders = sorted(path for path in root.iterdir() if path.is_dir())
        self.files = [(path, i) for i, folder in enumerate(folders) for path in folder.iterdir()]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.files[index]
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), label


def epoch(*, class_folders: str, batch_size: int, workers: int, **_: Any) -> Work:
    """Reads the training images from class folders and takes an epoch of CNN steps on them."""
    # The layout that is fast for this network: see the figures of `cnn_step`.
    step = _CnnStepper(channels_last=True, compiled=False, policy="none")
    loader = torch.utils.data.DataLoader(
        _ClassFolders(Path(class_folders)),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def work(count: int) -> None:
        for _ in range(count):
            for image, label in loader:
                step(image, label)

    return work
