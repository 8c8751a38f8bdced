r"""The paper's CNN, on real images or on real and generated ones.

    python train_classifier.py --config=configs/lesion_cnn.py:paper --workdir=runs/cnn \
        --config.data_dir=data/bcn500 \
        --config.synthetic.gan_workdir=runs/gan --config.synthetic.per_class=100

Variants:
  paper: batch 64, Adam 2e-4 with betas 0.5 and 0.999; 100 epochs of 1,576 images.
  notebook: the authors' notebooks, batch 30, Keras's Adam, 3,300 updates. They gave the run
    without generated images 2,650; here every run has the same.
  demo: minutes on a CPU, for `dermagan demo`.
  smoke: a few steps, to see that everything runs.

Cost and result: see docs/results.md.
"""

from __future__ import annotations

import ml_collections
from ml_collections import config_dict


def _real() -> ml_collections.ConfigDict:
    real = ml_collections.ConfigDict()
    real.share = 1.0  # Of each class's training images, whole lesions drawn by the seed.
    real.repeated = 0.0  # Real images to show a second time, for each one.
    real.extra_dir = ""  # A prepared set whose other training lesions are added.
    real.seed = 0
    return real


def _synthetic() -> ml_collections.ConfigDict:
    synthetic = ml_collections.ConfigDict()
    synthetic.gan_workdir = ""  # Generate from this GAN's checkpoint …
    synthetic.dir = ""  # … or read a folder of `dermagan generate`.
    synthetic.per_class = 0  # Generated images a class …
    synthetic.ratio = 0.0  # … or for each real image of the class.
    synthetic.seed = 0
    synthetic.only = False  # Leave the real images out.
    synthetic.until = 1.0  # Share of the steps that see them; the rest see the real ones alone.
    synthetic.shuffle_labels = False  # As a control: images that teach nothing of classes.
    synthetic.checkpoint_step = config_dict.placeholder(int)  # Unset: the latest.
    return synthetic


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """Returns the configuration of a variant: `paper`, `notebook`, `demo` or `smoke`."""
    config = ml_collections.ConfigDict()
    config.variant = variant
    config.data_dir = ""  # A prepared data set: `dermagan prepare --out DIR`.
    config.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.network = "lesion_cnn"
    config.model.image_size = 64  # That of the prepared set.
    config.model.dropout_rate = 0.2

    config.real = _real()
    config.synthetic = _synthetic()

    config.batch_size = 64
    config.num_steps = 2_463
    # Repeat images of small classes up to the largest, but for the steps of an `until` below 1.
    config.class_balanced = False
    config.augmentation = "paper"  # "paper", "notebook" or "none".
    config.mixing = "none"  # Or "mixup", "cutmix": train on mixtures of two images.
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 2e-4
    config.optimizer.b1 = 0.5
    config.optimizer.b2 = 0.999
    config.optimizer.epsilon = 1e-8

    config.precision = "float32"  # "float32", "tf32" or "bfloat16"; parameters stay float32.
    config.steps_per_call = 0  # Steps of one call to the device; 0: 1 on a CPU, 32 elsewhere.
    config.mesh = ""  # Devices along each axis, data:4,seed:2; "": as many seeds as can be.
    config.log_every_steps = 10
    config.eval_every_steps = 50  # Validation, and a checkpoint.

    if variant == "notebook":
        config.batch_size = 30
        config.num_steps = 3_300
        config.augmentation = "notebook"
        config.optimizer.learning_rate = 1e-3
        config.optimizer.b1 = 0.9
        config.optimizer.epsilon = 1e-7
    elif variant == "demo":
        config.batch_size = 32
        config.num_steps = 250
        config.optimizer.learning_rate = 1e-3
        config.optimizer.b1 = 0.9
    elif variant == "smoke":
        config.batch_size = 16
        config.num_steps = 40
        config.log_every_steps = 5
        config.eval_every_steps = 20
    elif variant != "paper":
        raise ValueError(f"unknown variant {variant!r}; known: paper, notebook, demo, smoke")
    return config
