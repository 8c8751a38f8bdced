r"""A conditional residual GAN for a few hundred images a class, one network for all four.

    python train_gan.py --config=configs/resgan.py --workdir=runs/resgan \
        --config.data_dir=data/bcn500

Variants:
  default: 200 thousand images, with a discriminator that looks through a frozen EfficientNet-Lite0.
  residual: the same, with a residual discriminator that knows nothing of images at first.
  demo: narrow networks for minutes on a CPU, for `dermagan demo`.
  smoke: narrower ones, and a residual discriminator, for a few steps, to see that everything runs.

Comparisons are a field each: --config.augment=none, --config.ema_half_life_kimg=0,
--config.loss=non_saturating, or relativistic with r1 and r2 above 0, --config.optimizer.schedule=
linear, --config.conditioning=transitional or per_class; with :residual also --config.r1=0 and
--config.model.d_batch_norm=True.

Cost and result: see docs/results.md.
"""

from __future__ import annotations

import ml_collections


def _model() -> ml_collections.ConfigDict:
    model = ml_collections.ConfigDict()
    model.architecture = "resgan"
    model.width = 64  # Channels of the generator's last hidden map, half the image's side.
    model.max_width = 256
    model.convs = 0  # Further 3x3 convolutions in each block of the generator.
    model.discriminator = "projected"  # Looks through a frozen EfficientNet-Lite0; or "residual".
    model.d_side = 64  # Side of the images that a projected one looks at, a multiple of 32.
    model.d_head_width = 64  # Channels of its heads.
    model.d_width = 32  # Channels of the largest map that it mixes; of a residual one's first.
    model.d_max_width = 192
    model.d_convs = 0
    model.d_batch_norm = False
    model.d_spectral_norm = False
    model.attention_size = 0  # Side of the map with self-attention: 16, 32, or 0 for none.
    model.latent_size = 128
    model.latent_degrees = 0.0  # Of Student's t, from which latents are drawn; 0 is normal.
    model.image_size = 64  # 32, 64 or 128: that of the prepared set.
    return model


def _make_residual(config: ml_collections.ConfigDict) -> None:
    config.model.discriminator = "residual"
    config.model.d_width = 48
    config.optimizer.learning_rate = 4e-4
    config.loss = "non_saturating"
    config.r1 = 0.2
    config.augment = "color,translation,cutout"


def _make_demo(config: ml_collections.ConfigDict) -> None:
    config.model.width, config.model.max_width = 32, 128
    config.model.d_head_width = 32
    config.model.latent_size = 64
    config.total_kimg = 18.0
    config.ema_half_life_kimg = 1.0
    config.checkpoint_every_steps = 125
    config.watch.features = ""


def _make_small(config: ml_collections.ConfigDict) -> None:
    config.model.width = config.model.max_width = 16
    config.model.d_width = config.model.d_max_width = 16
    config.model.latent_size = 16
    config.batch_size = 16
    config.total_kimg = 0.0
    config.num_steps = 40
    config.log_every_steps = 4
    config.penalty_interval = 4
    config.checkpoint_every_steps = 20
    config.watch.features = ""


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """Returns the configuration of a variant: `default`, `residual`, `demo` or `smoke`."""
    config = ml_collections.ConfigDict()
    config.variant = variant
    config.data_dir = ""  # A prepared data set: `dermagan prepare --out DIR`.
    config.seed = 0
    config.init_from = ""  # Workdir of a GAN to start from; it must know none of the test lesions.
    config.conditioning = "conditional"  # "per_class", "conditional" or "transitional".
    config.transition_kimg = (25.0, 75.0)  # When the class begins to count, and counts in full.
    # Until when, with "transitional", a set prepared with --others shows its other lesions as well.
    config.others_kimg = 0.0

    config.model = _model()
    config.batch_size = 32  # Real images in a step; of each class, where each has its own GAN.
    config.total_kimg = 200.0  # Thousands of real images, of all classes together.
    config.num_steps = 0  # Or a number of updates, and total_kimg 0.
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 2e-4
    config.optimizer.d_learning_rate = 0.0  # 0: the same.
    config.optimizer.b1 = 0.5
    config.optimizer.b2 = 0.99
    config.optimizer.schedule = "constant"  # "linear": to 0 over the second half.
    config.loss = "hinge"  # "non_saturating", "hinge" or "relativistic".
    config.label_smoothing = 0.0  # Taken off the discriminator's target for real images.
    config.r1 = 0.0  # Gamma of the gradient penalty on real images; spectral norms do without.
    config.r2 = 0.0  # And on generated images.
    config.penalty_interval = 16  # Steps from one penalty, this many times as strong, to the next.
    # "none", "ada", or policies of DiffAugment, and "zoom".
    config.augment = "color,translation,zoom,cutout"
    config.ada_kimg = 100.0  # Thousands of images in which ADA's p may go from 0 to 1.
    config.turn_reals = True  # Show real images in all eight symmetries of the square.
    config.shared_latents = True  # Both updates of a step use the same generated images.
    config.ema_half_life_kimg = 10.0  # Moving average of the generator; 0 is none.

    config.precision = "float32"  # "float32", "tf32" or "bfloat16"; parameters stay float32.
    config.steps_per_call = 0  # Steps of one call to the device; 0: 1 on a CPU, 32 elsewhere.
    config.mesh = ""  # Devices along each axis, data:4,class:2; "": all share each batch.
    config.log_every_steps = 16  # A multiple of penalty_interval shows the penalty.
    config.checkpoint_every_steps = 512
    config.keep_checkpoints = 2
    config.rollbacks = 0  # How often a loss that is not finite may send it back, at half the rate.
    config.rollback_checkpoints = 1  # How far: 1 is the last checkpoint, 2 the one before.
    config.watch = ml_collections.ConfigDict()  # Measures each checkpoint on validation lesions.
    config.watch.features = (
        "efficientnet_lite0"  # As `dermagan evaluate --features`; "" for no watch.
    )
    config.watch.per_class = 128  # Generated images of each class.
    config.watch.patience = 0  # Checkpoints without a lower KID after which to stop; 0 for never.

    if variant == "residual":
        _make_residual(config)
    elif variant == "demo":
        _make_demo(config)
    elif variant == "smoke":
        _make_residual(config)
        _make_small(config)
    elif variant != "default":
        raise ValueError(f"unknown variant {variant!r}; known: default, residual, demo, smoke")
    return config
