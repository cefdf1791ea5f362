"""Network slimming: the slope of an L1 penalty on the batch-norm scales of prunable channels."""

import torch
from torch.nn import functional as F
from torch.testing import assert_close

from cases import CASES, LABELS, coupled
from infprune.joint.slimming import Slimming


def test_adds_the_sign_of_the_scales_behind_prunable_channels():
    module, x = CASES["bias-free"]()
    layers = coupled("bias-free").prunable
    F.cross_entropy(module(x), LABELS).backward()
    before = {n: p.grad.clone() for n, p in module.named_parameters()}
    with torch.no_grad():
        module[1].weight[0] = -0.5
    Slimming(module, layers, 0.01).observe(module)
    norms = {"1.weight": module[1].weight, "4.weight": module[4].weight}
    for name, p in module.named_parameters():
        added = 0.01 * norms[name].sign() if name in norms else torch.zeros_like(p)
        assert_close(p.grad, before[name] + added)


def test_without_batch_norms_it_does_nothing():
    module, x = CASES["mlp"]()
    F.cross_entropy(module(x), LABELS).backward()
    before = [p.grad.clone() for p in module.parameters()]
    Slimming(module, coupled("mlp").prunable, 1.0).observe(module)
    assert all(torch.equal(p.grad, b) for p, b in zip(module.parameters(), before, strict=True))
