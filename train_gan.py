r"""Trains a GAN: one for each class, or one for all.

    python train_gan.py --config=configs/dcgan.py:paper --workdir=runs/gan \
        --config.data_dir=DIR
    python train_gan.py --config=configs/resgan.py --workdir=runs/resgan \
        --config.data_dir=DIR

Any field of the configuration can be set as --config.FIELD=VALUE. Running the same command again
goes on from the last checkpoint.
"""

from __future__ import annotations

from dermagan_jax import console, gan_trainer, launch

if __name__ == "__main__":
    launch.run(gan_trainer.train, console.show_gan_summary)
