"""Runs `python -m dermagan_jax`, the same as the command `dermagan`."""

from dermagan_jax.cli import main

main()
