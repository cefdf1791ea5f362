"""Networks with data in two batches, and the dense truth of each curvature on them."""

import torch
from torch import nn

import reference
from cases import CASES, LABELS
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace

EXACT = {"rtol": 1e-9, "atol": 1e-11}
FULL = ("hessian", "ggn", "fisher", "empirical-fisher")  # the others are made of Kronecker products


def objective(name, **kwargs):
    module, x = CASES[name]()
    return of(module.double().eval(), x.double(), LABELS, **kwargs)


def of(module, x, y, *, split=4, names=None, **kwargs):
    batches = [(x[:split], y[:split]), (x[split:], y[split:])]
    return Objective(module, ParameterSpace.of(module, names), batches, **kwargs)


def whole(o):
    xs, ys = zip(*o.batches, strict=True)
    return torch.cat(xs), torch.cat(ys)


def truth(curvature, o):
    x, y = whole(o)
    return {
        "hessian": lambda: reference.loss_hessian(o.module, x, y),
        "ggn": lambda: reference.ggn(o.module, x),
        "fisher": lambda: reference.fisher(o.module, x, reference.drawn_labels(o.module(x), 0)),
        "empirical-fisher": lambda: reference.fisher(o.module, x, y),
    }[curvature]()


def tanh_net(inputs=5, hidden=4, outputs=3):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).double().eval()


def classified(count=11, inputs=5, classes=3):
    return torch.randn(count, inputs, dtype=torch.float64), torch.arange(count) % classes
