"""Closed forms for one column of a Kronecker-factored weight, and gates on inputs."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import reference
from infprune.curvature.input_gates import input_gates
from infprune.curvature.kfac import ekfac, kfac
from infprune.curvature.objective import Objective
from infprune.curvature.patches import matrix
from infprune.curvature.space import ParameterSpace
from infprune.errors import ArchitectureError
from infprune.influence.kronecker import single_column_costs

DAMPING = 0.03


def objective(*, bias=True):
    net = nn.Sequential(nn.Linear(4, 5, bias=bias), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.arange(20) % 3
    return Objective(net, ParameterSpace.of(net), [(x[:8], y[:8]), (x[8:], y[8:])])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", [kfac, ekfac])
def test_columns_are_dense_block_algebra(make, bias):
    o = objective(bias=bias)
    made = make(o).damped(DAMPING)
    H, theta = made.to_dense(), o.theta
    owner = o.module[0]
    weight = matrix(owner).detach()[0]
    columns = [reference.block(H, theta, o.space.at("0.weight", 1, torch.tensor([i])).tolist())[1] for i in range(4)]
    assert_close(single_column_costs(made.blocks["0"], weight), torch.stack(columns), rtol=1e-10, atol=1e-12)


def test_gates_on_inputs_have_the_ggn_of_the_gates():
    o = objective()
    Z = input_gates(o)
    x = torch.cat([b[0] for b in o.batches])
    G = torch.zeros(4, 4, dtype=torch.float64)
    for sample in x:
        J = torch.autograd.functional.jacobian(lambda g, s=sample: o.module(g * s), torch.ones(4, dtype=torch.float64))
        p = o.module(sample).detach().softmax(0)
        G += J.T @ (torch.diag(p) - torch.outer(p, p)) @ J / len(x)
    assert_close(Z.T @ Z / len(Z), G, rtol=1e-10, atol=1e-12)


def test_token_ids_have_no_gates():
    net = nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(6, 2)).eval()
    o = Objective(net, ParameterSpace.of(net), [(torch.tensor([[0, 1], [2, 3]]), torch.tensor([0, 1]))])
    with pytest.raises(ArchitectureError, match="one floating-point input"):
        input_gates(o)
