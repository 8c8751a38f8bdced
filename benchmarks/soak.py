"""Trains, breaks and resumes a GAN for hours, and compares it with a run that nothing happened to.

    python -m benchmarks.soak --minutes=120

A small GAN on phantoms is trained in a folder of a file system with little room (a tmpfs, where the
system lets us mount one), with a limit on its memory. Again and again, at a random moment, it is
ended or something of its is spoilt; then the same command is run again, and must go on from the
last checkpoint that nothing was done to. When it has come to its end it must have left what an
undisturbed run leaves: the same metrics, byte for byte, and the same state, bit for bit. Then the
next run begins. Writes the record into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from benchmarks import data, tables, turns
from dermagan_jax.checkpoints import DAMAGED, FOLDER, Checkpoints
from dermagan_jax.writers import METRICS_FILE

NUM_STEPS = 400
# Bytes: 8 MiB for each of two checkpoints and the one being written beside them, one that was found
# damaged and one that was being deleted, and 24 for the samples and TensorBoard's events of a run
# that was begun again and again.
ROOM = 64 << 20
MEMORY = 24 << 30  # Bytes of addresses: JAX reserves several times what it uses.
HANGS_AFTER_SECS = 900.0
DOCUMENT = turns.ROOT / "docs" / "reliability.md"
# The first line of progress, before the first step.
BEGINS_AT = re.compile(rf"^gan  (\d+)/{NUM_STEPS}  ", re.MULTILINE)
BEGIN, END = "<!-- record: python -m benchmarks.soak -->", "<!-- end of record -->"


@dataclasses.dataclass
class Soak:
    """One run under way, and what has happened to all of them.

    Attributes:
      folder: where it trains.
      data_dir: the prepared phantoms.
      rng: chooses what happens when.
      faults: how often each kind of fault was injected.
      damaged: the steps of checkpoints that were damaged.
      saved: the last step of the others, before the last thing happened.
      num_resumed: how often a start went on from a checkpoint.
    """

    folder: Path
    data_dir: Path
    rng: random.Random
    faults: Counter[str] = dataclasses.field(default_factory=Counter)
    damaged: set[int] = dataclasses.field(default_factory=set)
    saved: int = 0
    num_resumed: int = 0

    @property
    def run(self) -> Path:
        """The workdir."""
        return self.folder / "run"

    def start(self) -> subprocess.Popen[str]:
        """Runs the command, new or again."""
        command = [sys.executable, str(turns.ROOT / "train_gan.py"), f"--workdir={self.run}"]
        command += [f"--config={turns.ROOT}/configs/dcgan.py:smoke", "--config.batch_size=4"]
        command += [f"--config.data_dir={self.data_dir}", f"--config.num_steps={NUM_STEPS}"]
        command += ["--config.checkpoint_every_steps=20", "--config.log_every_steps=5"]
        environment = os.environ | {"PYTHONPATH": str(turns.ROOT)}
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        # From outside: what runs between fork and exec may deadlock beside JAX's threads.
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_AS, (MEMORY, MEMORY))
        return process

    def note_saved(self) -> None:
        """Notes what the next start must go on from."""
        if (self.run / FOLDER).is_dir():
            with Checkpoints(self.run, read_only=True) as checkpoints:
                self.saved = max({0, *checkpoints.steps()} - self.damaged)

    def ends(self, process: subprocess.Popen[str], allowed: tuple[int, ...]) -> int:
        """Waits for the end, which must be one of those allowed and say what it is."""
        try:
            _, said = process.communicate(timeout=HANGS_AFTER_SECS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise SystemExit(f"hangs:\n{process.communicate()[1][-3000:]}") from None
        code = process.returncode
        # Beside our error, the threads of libraries may say the same in their own way.
        says_so = {2: "error: " in said}.get(code, code < 0 or "Traceback" not in said)
        if code not in allowed or not says_so:
            raise SystemExit(f"ended with {code}:\n{said[-3000:]}")
        self._require_going_on(code, said)
        return code

    def _require_going_on(self, code: int, said: str) -> None:
        """Ends the soak if a start did not go on from what was saved."""
        begun = BEGINS_AT.search(said)
        if begun is None:
            if code == 0:
                raise SystemExit(f"ended without a word of where it began:\n{said[-3000:]}")
            return
        step = int(begun[1])
        # Not all damage is to bytes that count: it may go on from a damaged one, too.
        if step < self.saved or (step and f"going on from step {step}\n" not in said):
            raise SystemExit(f"began at step {step}, not {self.saved}:\n{said[-3000:]}")
        self.damaged &= {step}  # Later ones were set aside, and will be written anew.
        self.num_resumed += step > 0

    def disturb(self) -> None:
        """Starts the command, and lets one thing happen to it or to what it left."""
        # What was damaged is kept for people, who make room when it is short.
        shutil.rmtree(self.run / DAMAGED, ignore_errors=True)
        self.note_saved()
        name, fault = self.rng.choice(list(FAULTS.items()))
        if fault(self):
            self.faults[name] += 1


def _signalled(number: signal.Signals) -> Callable[[Soak], bool]:
    def fault(soak: Soak) -> bool:
        process = soak.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(soak.rng.uniform(1.0, 25.0))
        was_running = process.poll() is None
        process.send_signal(number)
        # Before the first step nothing listens yet: a signal ends it as it ends any program.
        soak.ends(process, (0, -number, 128 + number))
        return was_running

    return fault


def _full_disk(soak: Soak) -> bool:
    process = soak.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(soak.rng.uniform(8.0, 20.0))
    ballast = soak.folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        for _ in range(ROOM >> 16):
            file.write(bytes(1 << 16))
            file.flush()
    code = soak.ends(process, (0, 2))
    ballast.unlink()
    return code == 2


def _second_process(soak: Soak) -> bool:
    process = soak.start()
    lock = soak.run / ".lock"
    while process.poll() is None and not lock.exists():
        time.sleep(0.1)
    time.sleep(3.0)
    was_running = process.poll() is None
    second = soak.start()
    code = soak.ends(second, (0, 2))
    if code == 0 and process.poll() is None:
        raise SystemExit("two processes trained in one workdir")
    process.kill()
    soak.ends(process, (0, -signal.SIGKILL))
    return was_running and code == 2


def _torn_metrics(soak: Soak) -> bool:
    path = soak.run / METRICS_FILE
    if not path.is_file() or path.stat().st_size < 2:
        return False
    # What a kill in the middle of a write leaves: part of a line at the end.
    with path.open("ab") as file:
        file.write(b'{"step": 9999, "train/d_lo')
    return True


def _damaged_checkpoint(soak: Soak) -> bool:
    steps = sorted(
        (path for path in (soak.run / FOLDER).glob("*") if path.name.isdecimal()),
        key=lambda path: int(path.name),
    )
    # With one left a damaged one is the end of the run, which says so.
    if len(steps) < 2:
        return False
    files = [path for path in (steps[-1] / "state").rglob("*") if path.is_file()]
    victim = soak.rng.choice(sorted(path for path in files if path.stat().st_size > 64))
    content = bytearray(victim.read_bytes())
    if soak.rng.random() < 0.5:
        content = content[: len(content) // 2]
    else:
        for _ in range(64):
            content[soak.rng.randrange(len(content))] ^= 0xFF
    victim.write_bytes(content)
    soak.damaged.add(int(steps[-1].name))
    return True


def _lost_folder(soak: Soak) -> bool:
    """TensorBoard's events and the samples are for people; a run can do without the old ones."""
    if not (soak.run / "tensorboard").is_dir():
        return False
    shutil.rmtree(soak.run / "tensorboard")
    return True


FAULTS: dict[str, Callable[[Soak], bool]] = {
    "SIGKILL": _signalled(signal.SIGKILL),
    "SIGTERM": _signalled(signal.SIGTERM),
    "SIGINT": _signalled(signal.SIGINT),
    "disk full": _full_disk,
    "second process on the workdir": _second_process,
    "torn line in the metrics": _torn_metrics,
    "damaged checkpoint": _damaged_checkpoint,
    "TensorBoard's folder lost": _lost_folder,
}


def _state(run: Path) -> list[np.ndarray]:
    with Checkpoints(run, read_only=True) as saved:
        state = saved.restore_arrays(NUM_STEPS, "state")
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def _same(one: Path, two: Path) -> bool:
    metrics = [(run / METRICS_FILE).read_bytes() for run in (one, two)]
    states = zip(_state(one), _state(two), strict=True)
    return metrics[0] == metrics[1] and all(np.array_equal(left, right) for left, right in states)


@contextlib.contextmanager
def _little_room(folder: Path) -> Iterator[bool]:
    """Mounts a small file system on the folder, if this user may."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    is_small = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield is_small
    finally:
        if is_small:
            subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def soak(minutes: float, seed: int) -> dict[str, object]:
    """Breaks runs for so many minutes; the last one is brought to its end.

    Returns:
      `minutes`, `runs` that ended as the undisturbed one did, `starts`, how many `resumed` from a
      checkpoint, `faults` by kind, and whether the `small_disk` could be had.

    Raises:
      SystemExit: a run ended in a way that it must not, or in other files, or did not go on from
        what was saved.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place, _little_room(Path(place) / "room") as is_small:
        folder = Path(place) / "room"
        whole = Soak(Path(place) / "whole", data.phantom_set(), random.Random(seed))
        whole.ends(whole.start(), (0,))
        if not is_small:
            FAULTS.pop("disk full")
        faults: Counter[str] = Counter()
        runs = starts = resumed = 0
        while time.monotonic() - start < 60 * minutes:
            broken = Soak(folder, whole.data_dir, random.Random(seed + 1 + runs), faults)
            while not (broken.run / "summary.json").exists():
                broken.disturb()
                starts += 1
                shown = ", ".join(f"{name} {number}" for name, number in faults.items())
                print(f"{(time.monotonic() - start) / 60:.0f} min, run {runs}: {shown}", flush=True)
            broken.note_saved()
            broken.ends(broken.start(), (0,))
            resumed += broken.num_resumed
            if not _same(broken.run, whole.run):
                raise SystemExit(f"run {runs} ended otherwise than the undisturbed one: {faults}")
            runs += 1
            shutil.rmtree(broken.run)
        minutes = (time.monotonic() - start) / 60
    return {
        "minutes": round(minutes),
        "runs": runs,
        "starts": starts,
        "resumed": resumed,
        "faults": dict(faults),
        "small_disk": is_small,
    }


def _record(found: dict[str, object], seed: int) -> str:
    faults: dict[str, int] = found["faults"]  # type: ignore[assignment]
    lines = [
        f"{found['minutes']} minutes, seed {seed}: {found['runs']} runs of {NUM_STEPS} steps, "
        f"broken {sum(faults.values())} times, each ended as the undisturbed one did, to the bit. "
        f"The command went on from the last unspoilt checkpoint {found['resumed']} times."
        + ("" if found["small_disk"] else " The disk had all of its room."),
        "",
        "| fault | times |",
        "|---|---|",
        *(f"| {name} | {number} |" for name, number in sorted(faults.items())),
    ]
    return "\n".join(lines)


def main() -> None:
    """Soaks, and writes the record."""
    summary, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=summary)
    parser.add_argument("--minutes", type=float, default=120.0, help="how long (120)")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when (0)")
    parser.add_argument("--dry-run", action="store_true", help="leave docs/reliability.md alone")
    flags = parser.parse_args()
    found = soak(flags.minutes, flags.seed)
    print(json.dumps(found, indent=2))
    if flags.dry_run:
        return
    tables.put(DOCUMENT, BEGIN, _record(found, flags.seed), END)


if __name__ == "__main__":
    main()
