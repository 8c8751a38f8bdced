"""TensorFlow for reading data only: quiet, and without the accelerators, which are JAX's.

Import `tf` from here, never TensorFlow itself.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# No network runs here; switched on, these operations announce themselves on every start.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

__all__ = ["tf"]
