"""What a step sends between devices and keeps on each, by XLA's own analysis of the program.

    python -m benchmarks.scaling

Nothing is trained: each program is compiled for as many CPU devices as asked for, and read. The
collective operations are those that a GPU or TPU program has; memory is the CPU compiler's, and an
accelerator's differs. Writes the table of docs/scaling.md.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from typing import Any

from benchmarks import tables, turns

DEVICES = (1, 2, 8)
IMAGES_A_DEVICE = 8
DOCUMENT = turns.ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- table: python -m benchmarks.scaling -->", "<!-- end of table -->"

# By name: configuration and fields of it.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "`resgan`": ("resgan", {}),
    "`resgan`, twice as wide": (
        "resgan",
        {"model.width": 128, "model.max_width": 512, "model.d_width": 64, "model.d_max_width": 384},
    ),
    "`dcgan:paper`, a GAN a class": ("dcgan", {}),
}
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
_COLLECTIVE = re.compile(
    r"= (?P<shapes>\(?[^=]*?\)?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\("
)
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


def collectives(program: str) -> dict[str, int]:
    """Adds up what a compiled program's collective operations yield, in bytes, by their kind."""
    found: dict[str, int] = {}
    # XLA numbers the parts of long tuples in comments.
    for match in _COLLECTIVE.finditer(re.sub(r"/\*.*?\*/", "", program)):
        size = sum(
            _BYTES.get(kind, 4) * math.prod(int(side) for side in sides.split(",") if side)
            for kind, sides in _SHAPE.findall(match["shapes"])
        )
        found[match["kind"]] = found.get(match["kind"], 0) + size
    return found


def analyse(model: str, num_devices: int) -> dict[str, Any]:
    """Compiles a model's step for so many devices of this process, and reads the program.

    Returns:
      `parameters`: millions, of generator and discriminator; `sent`: by kind, bytes of a step's
      collectives; `arguments` and `scratch`: bytes on each device.
    """
    import jax
    import numpy as np

    from configs import dcgan, resgan
    from dermagan_jax import gan_runs
    from dermagan_jax.data.pipeline import LabelledImages

    name, fields = MODELS[model]
    config = {"resgan": resgan, "dcgan": dcgan}[name].get_config()
    config.update_from_flattened_dict(fields)
    config.batch_size = IMAGES_A_DEVICE * num_devices
    label = np.arange(64, dtype=np.int32) % 4
    side = config.model.image_size
    image = np.random.default_rng(0).integers(0, 256, (64, side, side, 3), dtype=np.uint8)
    run = gan_runs.Run(config, LabelledImages(image, label))
    state = run.create_state()
    batch = next(iter(run.batches(0, 1)))
    compiled = run.train_steps.lower(run.key, state, batch, 0, 0, 1).compile()
    memory = compiled.memory_analysis()
    sizes = [leaf.size for net in (state.g, state.d) for leaf in jax.tree.leaves(net.params)]
    return {
        "parameters": sum(sizes) / 1e6,
        # The program has one step, which it takes for each class that a device has.
        "sent": {
            kind: size * run.num_entries for kind, size in collectives(compiled.as_text()).items()
        },
        "arguments": memory.argument_size_in_bytes,
        "scratch": memory.temp_size_in_bytes,
    }


def _in_a_process(model: str, num_devices: int) -> dict[str, Any]:
    """A process has one number of devices."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
        "PYTHONPATH": str(turns.ROOT),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "benchmarks.scaling", model, str(num_devices)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def table() -> str:
    """Compiles every model for every number of devices, and lays the figures out."""
    head = "step of | parameters | devices | batch | sent a step | scratch | state and batch"
    rows = [f"| {head} |", "|---|---|---|---|---|---|---|"]
    for model in MODELS:
        for num_devices in DEVICES:
            found = _in_a_process(model, num_devices)
            sent = ", ".join(
                f"{kind} {size / 1e6:.1f} MB" for kind, size in sorted(found["sent"].items())
            )
            rows.append(
                f"| {model} | {found['parameters']:.1f} M | {num_devices} | "
                f"{IMAGES_A_DEVICE * num_devices} | {sent or 'nothing'} | "
                f"{found['scratch'] / 1e6:.0f} MB | {found['arguments'] / 1e6:.0f} MB |"
            )
            print(rows[-1], flush=True)
    return "\n".join(rows)


def main() -> None:
    """Writes the table; with a model and a number of devices, prints the figures of that one."""
    if len(sys.argv) == 3:
        print(json.dumps(analyse(sys.argv[1], int(sys.argv[2]))))
        return
    tables.put(DOCUMENT, BEGIN, table(), END)


if __name__ == "__main__":
    main()
