"""Four CPU devices, no silent rank promotion, and the sets and networks that tests share."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        # Compiling takes longer than running in tests.
        "--xla_backend_optimization_level=0",
    ]
).strip()
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["MPLBACKEND"] = "Agg"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Workers and subprocesses inherit it, so that no program is compiled twice.
    _cache = tempfile.mkdtemp(prefix="dermagan-tests-")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")

# They begin first, so that no core waits for another in the end; xdist keeps this order when told
# `--no-loadscope-reorder`, as in `make test`.
_LONGEST = ("test_study.py", "test_hosts.py", "test_gan_trainer.py", "test_kill.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with HAM10000/ and ISIC_2019/, from DERMAGAN_TEST_DATA."""
    folder = os.environ.get("DERMAGAN_TEST_DATA")
    if not folder:
        pytest.skip("DERMAGAN_TEST_DATA names no folder of real images")
    return Path(folder)


@pytest.fixture(scope="session")
def phantom_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of 80 phantoms, 5 of each class for the test."""
    from dermagan_jax.data.prepare import prepare

    out = tmp_path_factory.mktemp("phantom") / "set"
    changes = {"test_per_class": 5}
    prepare(out, source_texts=["phantom=20"], plan_changes=changes, num_workers=1, progress=False)
    return out


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set like `phantom_set` of images of 32 pixels, for networks slow to compile."""
    from dermagan_jax.data.prepare import prepare

    out = tmp_path_factory.mktemp("small") / "set"
    options = {"plan_changes": {"test_per_class": 5}, "num_workers": 1, "progress": False}
    prepare(out, source_texts=["phantom=20"], image_size=32, **options)
    return out


@pytest.fixture(scope="session")
def many_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set with more validation images than `phantom_set` has."""
    from dermagan_jax.data.prepare import prepare

    out = tmp_path_factory.mktemp("many") / "set"
    changes = {"test_per_class": 2, "validation_fraction": 0.5}
    prepare(out, source_texts=["phantom=36"], plan_changes=changes, num_workers=1, progress=False)
    return out


@pytest.fixture(scope="session")
def tiny_gan(phantom_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a narrow GAN, two steps old."""
    from configs import dcgan
    from dermagan_jax import gan_trainer

    config = dcgan.get_config("smoke")
    config.data_dir = str(phantom_set)
    config.model.width, config.model.latent_size, config.batch_size = 4, 8, 4
    config.num_steps, config.checkpoint_every_steps = 2, 1
    folder = tmp_path_factory.mktemp("gan") / "run"
    gan_trainer.train(config, folder)
    return folder
