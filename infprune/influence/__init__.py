"""Theorem 1 and its exact forms: pure functions of curvature, weights and groups."""
