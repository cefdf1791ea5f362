"""The command line. Importing it does not import torch: commands import what they run when they run."""

from infprune.cli.app import main

__all__ = ["main"]
