"""Equations 8 to 10 of INF-CP, against the definitions."""

import pytest
import torch
from torch.testing import assert_close

import reference
from infprune.joint import micro_convolution as micro


def test_embedding_is_a_convolution_over_each_filter(device):
    influence = torch.rand(7, 3, 2, 2, dtype=torch.float64)
    kernel = torch.randn(3, 2, 2, dtype=torch.float64)
    found = micro.embedding(influence.flatten(1).to(device), kernel.flatten().to(device))
    assert_close(found.cpu(), reference.micro_convolution(influence, kernel), rtol=1e-12, atol=1e-14)


def test_a_kernel_of_ones_gives_the_channel_in_units_of_the_layer():
    influence = torch.rand(5, 9, dtype=torch.float64)
    found = micro.embedding(influence, torch.ones(9, dtype=torch.float64))
    assert_close(found, influence.sum(1) / influence.sum(1).mean())
    assert_close(found.mean(), torch.tensor(1.0, dtype=torch.float64))
    assert_close(micro.embedding(1e-9 * influence, torch.ones(9, dtype=torch.float64)), found)  # has no scale


def test_no_influence_at_all_is_finite():
    assert torch.equal(micro.embedding(torch.zeros(3, 4), torch.ones(4)), torch.zeros(3))


def test_code_is_a_scaled_sigmoid():
    e = torch.tensor([-300.0, -1.0, 0.0, 2.0, 300.0], dtype=torch.float64)
    assert_close(micro.code(e, 0.5), 1 / (1 + torch.exp(-0.5 * e)))
    assert micro.binarity(micro.code(e, 100.0)) == pytest.approx(0.8)  # one entry is exactly 1/2
    assert micro.binarity(torch.full((4,), 0.5)) == 0.0


def test_the_gate_starts_open_and_ends_binary():
    near_half = micro.code(torch.tensor([-1.0, 0.0, 1.0]), 1e-4)
    assert_close(micro.gate(near_half), torch.ones(3), rtol=0, atol=2e-4)
    binary = micro.code(torch.tensor([-1.0, 1.0]), 1e4)
    assert torch.equal(micro.gate(binary), torch.tensor([0.0, 1.0]))
    assert float(micro.gate(torch.tensor([1e-20, 1e-30])).max()) == 1.0  # the last channel of a layer stays


@pytest.mark.parametrize(
    ("kept", "target", "ours"), [(1.0, 0.6, 2.0), (0.7, 0.6, 0.5), (0.6, 0.6, 0.0), (0.4, 0.6, 0.0)]
)
def test_lambda_falls_to_zero_at_the_target(kept, target, ours):
    assert micro.weight_of_penalty(kept, target) == pytest.approx(ours)


def test_lambda_as_printed_contradicts_its_text():
    """With T_l counting kept channels (section 2.4) it is largest once far too much is gone; with removed ones, too."""
    assert reference.printed_lambda(1.0, 0.6) == 0.0  # nothing is removed yet: the text wants the largest weight here
    assert reference.printed_lambda(0.1, 0.6) == pytest.approx(1.5)  # 90 % gone, 40 % asked: the text wants zero
    assert reference.printed_lambda(1.0, 0.4) == 0.0  # T_l as the share to be removed: the same
    assert reference.printed_lambda(0.1, 0.4) == pytest.approx(2.5)
