"""Freed memory stays in the process: the second use of a large buffer faults no page in."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from dermagan_jax import memory
if "keep" in sys.argv:
    assert memory.keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    len(b"x" * 100_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def _faults_of_a_second_use(*arguments: str) -> int:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_freed_buffer_is_used_again_without_page_faults() -> None:
    # 100 MB are 24,000 pages of 4 KiB, or 48 of 2 MiB.
    usual = _faults_of_a_second_use()
    assert usual > 40
    assert _faults_of_a_second_use("keep") <= usual / 10
