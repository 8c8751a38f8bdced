r"""Trains a classifier on real and generated images.

    python train_classifier.py --config=configs/lesion_cnn.py:paper --workdir=runs/classifier \
        --config.data_dir=DIR

Any field of the configuration can be set as --config.FIELD=VALUE. Running the same command again
goes on from the last checkpoint.
"""

from __future__ import annotations

from absl import app, flags
from ml_collections import config_flags

from dermagan_jax import classifier_trainer, console

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The recipe, such as configs/lesion_cnn.py:paper; see the file for its fields."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of this run: checkpoints, metrics, figures and summary."
)


def main(argv: list[str]) -> None:
    """Trains by the flags."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; values are given as --flag=VALUE")
    summary = classifier_trainer.train(_CONFIG.value, console.folder(_WORKDIR.value))
    console.show_classifier_summary(summary, _WORKDIR.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(console.reports_errors(main))
