"""DermaGAN in JAX: train a GAN on lesion images, generate labelled ones, see if they help."""

__version__ = "0.1.0"
