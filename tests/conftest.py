"""Four CPU devices, no silent rank promotion, and the real data where the environment names it."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    # Compiling takes longer than running in tests.
    " --xla_backend_optimization_level=0".strip()
)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["MPLBACKEND"] = "Agg"

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with HAM10000/ and ISIC_2019/, from DERMAGAN_TEST_DATA."""
    folder = os.environ.get("DERMAGAN_TEST_DATA")
    if not folder:
        pytest.skip("DERMAGAN_TEST_DATA names no folder of real images")
    return Path(folder)
