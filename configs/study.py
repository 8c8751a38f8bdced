r"""A study: do generated images help a classifier on your data, and how sure is that?

    dermagan study --config configs/study.py --data data/bcn500 --out runs/study

Variants:
  default: all arms but A9 and A11, with the paper's CNN; 3 GANs, 3 classifiers of each, and 5 of
    an arm without a GAN.
  paper: the paper's own tables 2 and 3 and its dropout analysis, with its DCGAN; a GAN and
    3 classifiers of each arm.
  smoke: two GANs and two classifiers of a few steps, to see that everything runs.

A study goes on where it was stopped; what is finished is never made twice, and several processes
may work on one folder.

Cost and result: see docs/results.md.
"""

from __future__ import annotations

import ml_collections

from configs import dcgan, lesion_cnn, resgan

_VARIANTS = ("default", "paper", "smoke")


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """Returns the configuration of a variant: `default`, `paper` or `smoke`."""
    if variant not in _VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known: {', '.join(_VARIANTS)}")
    config = ml_collections.ConfigDict()
    config.variant = variant
    config.data_dir = ""  # A prepared data set; --data sets it.

    # The arms, by what study/arms.py calls them; A1 is the reference.
    config.arms = (
        *("A0", "A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "A10", "A12"),
        *("A13", "A14"),  # Left out where all classes have as many images.
    )
    # A4: generated for each real image; A12 has the most.
    config.ratios = (0.25, 0.5, 1.0, 2.0, 5.0)
    # A5: "realistic=SHARE", "agreed" (with a classifier of A1), "agreed=NETWORK" (with A11's, which
    # is trained whole) or "no_copies".
    config.filters = ("realistic=0.5", "agreed", "no_copies")
    config.real_shares = (0.1, 0.25, 0.5)  # A10: of the real images.
    config.more_real_dir = ""  # A9: a larger prepared set of the same archives.
    config.networks = ()  # A11, P3: see configs/backbone.py.
    config.network_weights = "imagenet"  # Or "none": trained from scratch.
    config.network_side = 64  # A11: side to which images are resized for them.
    config.network_steps = 0  # A11, P3: updates; 0 for as many as the other arms have.
    config.dropout_rates = ()  # PD.
    config.beside = ()  # Finished studies of other sets, such as paper_mix_by_lesion and bcn500.

    config.gan_seeds = (0, 1, 2)
    config.classifier_seeds = (0, 1, 2, 3, 4)
    config.seeds_per_gan = 3  # Of these, the first so many for each GAN.
    config.margin = 0.02  # A difference in balanced accuracy that would matter.

    config.gan = resgan.get_config()
    config.classifier = lesion_cnn.get_config()

    if variant == "paper":
        config.arms = ("A1", "P2", "P3", "PD")
        config.filters = config.real_shares = ()
        config.networks = ("mobilenet", "mobilenet_v2", "resnet50", "vgg16", "vgg19")
        config.dropout_rates = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
        config.gan_seeds = (0,)
        config.classifier_seeds = (0, 1, 2)
        config.gan = dcgan.get_config("notebook")
        config.classifier = lesion_cnn.get_config("notebook")
    elif variant == "smoke":
        config.gan = resgan.get_config("smoke")
        config.classifier = lesion_cnn.get_config("smoke")
        config.gan_seeds = config.classifier_seeds = (0, 1)
        config.ratios = (0.5, 1.0)
        config.filters = ("realistic=0.5", "agreed")
        config.real_shares = (0.5,)
    return config
