r"""Trains a classifier on real and generated images.

    python train_classifier.py --config=configs/lesion_cnn.py:paper --workdir=runs/classifier \
        --config.data_dir=DIR

Any field of the configuration can be set as --config.FIELD=VALUE. Running the same command again
goes on from the last checkpoint. --seeds=0:8 trains eight seeds at once, each in a folder of its
own in the workdir, and sums their scores up in seeds.json.
"""

from __future__ import annotations

from dermagan_jax import classifier_trainer, console, launch

if __name__ == "__main__":
    launch.run(
        classifier_trainer.train,
        console.show_classifier_summary,
        several=(classifier_trainer.train_seeds, console.show_seeds),
    )
