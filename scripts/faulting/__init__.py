"""Runs that are killed, starved and cut off: what is left, and what a rerun makes of it."""
