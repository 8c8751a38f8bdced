"""What a PyTorch user does in place of `dermagan prepare`: a loop that resizes and stores.

`torchvision` has no build that fits PyTorch's CPU one, so its transforms are written out: `Resize`
of a Pillow image is Pillow's, and of a tensor it is `interpolate` with antialiasing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

Work = Callable[[int], Any]

VERSIONS = {"torch": torch.__version__}
IMAGE_SIZE = 64


class _Resized(torch.utils.data.Dataset):
    """Decodes, resizes and crops an image and writes it as PNG, in the loader's processes."""

    def __init__(self, root: Path, out: Path, tensors: bool) -> None:
        self.files = sorted(root.glob("*/*.jpg"))
        self.out = out
        self.tensors = tensors
        for folder in {path.parent.name for path in self.files}:
            (out / folder).mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> int:
        path = self.files[index]
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        # The short side becomes 64 pixels, the long one keeps the form.
        scale = IMAGE_SIZE / min(image.size)
        width, height = (int(side * scale) for side in image.size)
        small = self._resized(image, width, height)
        left, top = (width - IMAGE_SIZE) // 2, (height - IMAGE_SIZE) // 2
        square = small.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))
        square.save(self.out / path.parent.name / f"{path.stem}.png")
        return index

    def _resized(self, image: Image.Image, width: int, height: int) -> Image.Image:
        if not self.tensors:
            return image.resize((width, height), Image.Resampling.BICUBIC)
        # A channels-last view of 8 bits: the layout for which PyTorch's kernel is fast.
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        small = functional.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
        return Image.fromarray(small[0].permute(1, 2, 0).numpy())


def prepare(*, photographs: str, out: str, processes: int, tensors: bool = False) -> Work:
    """Resizes a folder of photographs to PNG files in class folders."""

    def work(count: int) -> None:
        for _ in range(count):
            resized = _Resized(Path(photographs), Path(out) / f"torch_{tensors}", tensors)
            for _ in torch.utils.data.DataLoader(resized, batch_size=64, num_workers=processes):
                pass

    return work
