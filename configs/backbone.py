r"""A network that others designed, for comparison with the paper's CNN.

    python train_classifier.py --config=configs/backbone.py:efficientnet_lite0 --workdir=runs/net \
        --config.data_dir=data/bcn500

Variants are the networks: efficientnet_lite0, whose ImageNet weights come with this package, and
vgg16, vgg19, resnet50, mobilenet and mobilenet_v2, whose weights Keras keeps in ~/.keras/models.
Nothing is downloaded. As in the paper, the network is frozen and only a last layer is trained; to
train all of it, --config.model.frozen=False --config.optimizer.learning_rate=2e-4, and against
overfitting --config.optimizer.schedule=cosine --config.mixing=mixup.

Cost and result: see docs/results.md.
"""

from __future__ import annotations

import ml_collections

from configs import lesion_cnn


def get_config(variant: str = "efficientnet_lite0") -> ml_collections.ConfigDict:
    """Returns the configuration of a network, with the paper's batches and augmentation."""
    config = lesion_cnn.get_config()
    config.variant = variant
    config.model.network = variant
    config.model.side = 64  # Images are resized to this side first, a multiple of 32.
    config.model.frozen = True  # Train the last layer alone.
    config.model.weights = "imagenet"  # Or the path of Keras's .h5 file, or "none".
    config.optimizer.learning_rate = 1e-3
    config.optimizer.b1 = 0.9
    # Or "cosine": the rate rises from 0 during warmup_steps, and falls to 0 until num_steps. A run
    # that is made longer goes on at the rate of the longer one.
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 0
    return config
