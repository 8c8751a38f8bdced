"""Flax Linen modules: pure functions of their variables and inputs."""
