"""Comparisons between arms, and the report that shows them."""
