"""Measures of classifiers and of generated images."""
