"""Recipes: `--config=configs/NAME.py:VARIANT`; one file a recipe."""
