"""Sizes that several places share."""

GIB = 2**30  # bytes

WIDEST = 12_288
"""Rows of a float64 matrix that is inverted, eliminated or fitted with: 1.1 GiB, and a few copies of it at a time."""
