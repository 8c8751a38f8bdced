"""Freed memory stays in the process, so that no page is faulted in twice; and it does not grow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dermagan_jax.writers import METRICS_FILE, read_metrics

ROOT = Path(__file__).parents[1]

PROGRAM = """
import concurrent.futures, resource, sys
from dermagan_jax import memory
if "keep" in sys.argv:
    assert memory.keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    len(b"x" * 100_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
with concurrent.futures.ThreadPoolExecutor(1) as threads:
    found = [threads.submit(faults).result() if "thread" in sys.argv else faults() for _ in "12"]
print(found[1])
"""


def _faults_of_a_second_use(*arguments: str) -> int:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_freed_buffer_is_used_again_without_page_faults(where: str) -> None:
    # 100 MB are 24,000 pages of 4 KiB, or 48 of 2 MiB.
    usual = _faults_of_a_second_use(where)
    assert usual > 40
    assert _faults_of_a_second_use("keep", where) <= usual / 10


def _resident(process: subprocess.Popen[bytes]) -> int:
    """Bytes of memory that a process holds; 0 when it has just ended."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("thousands", "slack"), [(0.05, 0.05), pytest.param(2, 0.02, marks=pytest.mark.slow)]
)
def test_steps_take_no_more_memory_than_the_first(
    thousands: float, slack: float, phantom_set: Path, tmp_path: Path
) -> None:
    """From the first steps on, when all is compiled and all files are open, to six times as many.

    The long form goes from step 2,000 to 12,000.
    """
    first, last = int(1000 * thousands), int(6000 * thousands)
    command = [sys.executable, str(ROOT / "train_gan.py"), f"--workdir={tmp_path / 'run'}"]
    command += [f"--config={ROOT}/configs/dcgan.py:smoke", f"--config.data_dir={phantom_set}"]
    command += ["--config.batch_size=4", f"--config.num_steps={last}"]
    command += ["--config.log_every_steps=10", f"--config.checkpoint_every_steps={first // 2}"]
    # Compiled as users' programs are: the tests' own are quick to compile and slow to run.
    environment = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    process = subprocess.Popen(command, env=environment | {"PYTHONPATH": str(ROOT)})
    held = {}
    try:
        while process.poll() is None:
            time.sleep(0.2)
            rows = read_metrics(tmp_path / "run" / METRICS_FILE)
            if rows and process.poll() is None:
                held[rows[-1]["step"]] = _resident(process)
    finally:
        process.kill()
    assert process.returncode == 0
    early = max(size for step, size in held.items() if first <= step < 3 * first // 2)
    late = max(size for step, size in held.items() if step >= last - first // 2)
    print(f"{early / 2**20:.0f} MiB, {late / 2**20:.0f} MiB: {late / early - 1:+.1%}")
    assert late <= (1 + slack) * early
