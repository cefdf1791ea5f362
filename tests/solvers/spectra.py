"""Symmetric problems of known spectrum."""

import re

import torch

from infprune.curvature.algebra import Dense

SIZE = 20


def symmetric(eigenvalues):
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64)).Q
    return Q * values @ Q.T


def definite():
    return symmetric(torch.logspace(-1, 1, SIZE))


def indefinite():
    return symmetric(torch.cat([-torch.logspace(-0.5, 0, 4), torch.logspace(-0.5, 1, SIZE - 4)]))


def singular(rank=8):
    """Positive semi-definite, with a null space of rounding."""
    return symmetric(torch.cat([torch.zeros(SIZE - rank), torch.logspace(-1, 1, rank)]))


def advised(message):
    """The damping that a message asks for, and a little more, as "above" says."""
    return 1.001 * float(re.search(r"damping above ([\d.e+-]*\d)", message).group(1))


def solved(solver, H, b):
    return solver.init(Dense(H)).solve(b)
