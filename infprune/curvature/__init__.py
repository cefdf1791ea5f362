"""Curvature and gradient statistics of a network, collected in one pass over calibration data."""
