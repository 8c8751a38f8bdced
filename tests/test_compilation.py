"""Compiled programs are kept where only the user can write, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import jax
from dermagan_jax import compilation
compilation.MIN_COMPILE_SECS = 0.0
print(compilation.keep_programs())
jax.jit(lambda x: (x @ x).sum() + 1)(jax.numpy.ones((5, 5)))
"""


def _run(cache_home: Path, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(cache_home), **variables}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="the cache folder is elsewhere")
def test_programs_land_in_a_folder_of_the_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "dermagan_jax" / "programs"
    assert _run(tmp_path) == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert any(path.name.endswith("-cache") for path in folder.iterdir())


def test_a_folder_chosen_for_all_of_jax_stays(tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    assert _run(tmp_path / "home", JAX_COMPILATION_CACHE_DIR=str(chosen)) == str(chosen)
    assert not (tmp_path / "home").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the cache folder is elsewhere")
def test_a_cache_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert _run(tmp_path / "file") == "None"
