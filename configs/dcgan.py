r"""The paper's DCGAN, one for each of the four classes, all trained in one program.

    python train_gan.py --config=configs/dcgan.py:paper --workdir=runs/gan \
        --config.data_dir=data/bcn500

Variants:
  paper: batch 64, Adam 2e-4. The paper names no length; 1,600 steps show the GAN as many images
    as the notebooks' 200 epochs.
  notebook: the authors' notebooks, batch 16, Adam 1e-4, 200 epochs of about 500 images.
  smoke: narrow networks for a few steps, to see that everything runs.

Cost and result: see docs/results.md.
"""

from __future__ import annotations

import ml_collections


def _model() -> ml_collections.ConfigDict:
    model = ml_collections.ConfigDict()
    model.architecture = "dcgan"
    model.width = 64  # Channels of the discriminator's first and the generator's last map.
    model.latent_size = 512
    model.latent_degrees = 0.0  # Of Student's t, from which latents are drawn; 0 is normal.
    model.image_size = 64  # 32, 64 or 128: that of the prepared set.
    return model


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """Returns the configuration of a variant: `paper`, `notebook` or `smoke`."""
    config = ml_collections.ConfigDict()
    config.variant = variant
    config.data_dir = ""  # A prepared data set: `dermagan prepare --out DIR`.
    config.seed = 0
    config.init_from = ""  # Workdir of a GAN to start from; it must know none of the test lesions.
    config.conditioning = "per_class"  # One GAN a class.

    config.model = _model()
    config.batch_size = 64  # Real images of each class in a step.
    config.num_steps = 1_600
    config.total_kimg = 0.0  # Or a budget in thousands of real images of all classes, num_steps 0.
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 2e-4
    config.optimizer.d_learning_rate = 0.0  # 0: the same.
    config.optimizer.b1 = 0.5
    config.optimizer.b2 = 0.999
    config.optimizer.schedule = "constant"  # "linear": to 0 over the second half.
    config.loss = "non_saturating"  # "non_saturating", "hinge" or "relativistic".
    config.label_smoothing = 0.0  # Taken off the discriminator's target for real images.
    config.r1 = 0.0  # Gamma of the gradient penalty on real images.
    config.r2 = 0.0  # And on generated images.
    config.penalty_interval = 16  # Steps from one penalty, this many times as strong, to the next.
    config.augment = "none"  # "ada", or policies of DiffAugment: "color,translation,cutout".
    config.ada_kimg = 100.0  # Thousands of images in which ADA's p may go from 0 to 1.
    config.turn_reals = False  # Show real images in all eight symmetries of the square.
    config.shared_latents = False  # Both updates of a step use the same generated images.
    config.ema_half_life_kimg = 10.0  # Moving average of the generator; 0 is none, as in the paper.

    config.precision = "float32"  # "float32", "tf32" or "bfloat16"; parameters stay float32.
    config.steps_per_call = 0  # Steps of one call to the device; 0: 1 on a CPU, 32 elsewhere.
    config.mesh = ""  # Devices along each axis, data:4,class:2; "": all share each batch.
    config.log_every_steps = 10
    config.checkpoint_every_steps = 200
    config.keep_checkpoints = 2
    config.rollbacks = 0  # How often a loss that is not finite may send it back, at half the rate.
    config.rollback_checkpoints = 1  # How far: 1 is the last checkpoint, 2 the one before.
    config.watch = ml_collections.ConfigDict()  # Measures each checkpoint on validation lesions.
    config.watch.features = ""  # As `dermagan evaluate --features`; "" for no watch.
    config.watch.per_class = 128  # Generated images of each class.
    config.watch.patience = 0  # Checkpoints without a lower KID after which to stop; 0 for never.

    if variant == "notebook":
        config.batch_size = 16
        config.num_steps = 6_400
        config.optimizer.learning_rate = 1e-4
    elif variant == "smoke":
        config.model.width = 8
        config.model.latent_size = 32
        config.batch_size = 16
        config.num_steps = 40
        config.checkpoint_every_steps = 20
    elif variant != "paper":
        raise ValueError(f"unknown variant {variant!r}; known: paper, notebook, smoke")
    return config
