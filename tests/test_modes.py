import pytest
import torch
from torch import nn

from infprune.modes import evaluating, passing_by


def nested():
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    module[1][1].eval()
    return module


def modes(module):
    return [m.training for m in module.modules()]


def test_eval_inside_and_every_mode_restored():
    module, other = nested(), nn.Dropout()
    other.eval()
    before = modes(module)
    assert before == [True, True, True, True, False]
    with evaluating(module, other):
        assert not any(modes(module))
        assert not other.training
        module.train()  # what the block does is undone as well
        other.train()
    assert modes(module) == before
    assert not other.training


def test_restored_after_an_error():
    module = nested()
    before = modes(module)
    with pytest.raises(RuntimeError, match="inside"), evaluating(module):
        raise RuntimeError("inside")
    assert modes(module) == before


def test_a_module_named_twice_and_no_module():
    module = nested()
    before = modes(module)
    with evaluating(module[1], module, module):
        assert not any(modes(module))
    assert modes(module) == before
    with evaluating():
        assert modes(module) == before


def test_modules_are_passed_by_and_called_again_afterwards():
    module, x = nn.Sequential(nn.Linear(3, 2), nn.Tanh()), torch.randn(4, 3)
    names, y = list(module.state_dict()), module(x)
    with passing_by([module[0]]):
        assert torch.equal(module(x), x.tanh())
        assert list(module.state_dict()) == names
    assert torch.equal(module(x), y)
    assert "forward" not in vars(module[0])
