"""This project's side of the jobs that prepare data: what `dermagan prepare` calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dermagan_jax
from dermagan_jax.data.prepare import prepare as prepare_set

Work = Callable[[int], Any]

VERSIONS = {"dermagan_jax": dermagan_jax.__version__}


def prepare(*, photographs: str, out: str, processes: int) -> Work:
    """Makes a prepared set of a folder of photographs, in place of the one of the call before."""

    def work(count: int) -> None:
        for _ in range(count):
            prepare_set(
                Path(out) / "ours",
                source_texts=[f"folder={photographs}"],
                num_workers=processes,
                overwrite=True,
                progress=False,
            )

    return work
