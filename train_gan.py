r"""Trains one GAN a class.

    python train_gan.py --config=configs/dcgan.py:paper --workdir=runs/gan \
        --config.data_dir=DIR

Any field of the configuration can be set as --config.FIELD=VALUE. Running the same command again
goes on from the last checkpoint.
"""

from __future__ import annotations

from absl import app, flags
from ml_collections import config_flags

from dermagan_jax import console, gan_trainer

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The recipe, such as configs/dcgan.py:paper; see the file for its fields."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of this run: checkpoints, metrics, figures and summary."
)


def main(argv: list[str]) -> None:
    """Trains by the flags."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; values are given as --flag=VALUE")
    summary = gan_trainer.train(_CONFIG.value, console.folder(_WORKDIR.value))
    console.show_gan_summary(summary, _WORKDIR.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(console.reports_errors(main))
