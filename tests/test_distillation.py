"""A network whose weights follow the dense network's logits, without labels."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from infprune import distillation
from infprune.data.dataset import ArrayDataset
from infprune.distillation import Distillation, distill
from infprune.progress import Silent
from infprune.sensitivity import distance


def network(width: int, seed: int, device: torch.device) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4 * width, 3),
    ).to(device)


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def samples(count: int = 256, label: int = 0) -> ArrayDataset:
    return ArrayDataset(images(count, 1), torch.full((count,), label))


class Case:
    def __init__(self, device: torch.device) -> None:
        self.dense = network(8, 0, device).eval()
        self.small = network(4, 1, device).eval()
        self.held_out = images(64, 2).to(device)
        self.how = Distillation(epochs=3)

    def distilled(self, data: ArrayDataset | None = None, how: Distillation | None = None) -> nn.Module:
        return distill(
            self.dense,
            self.small,
            data or samples(),
            self.held_out,
            how or self.how,
            seed=0,
            auxiliary=(),
            progress=Silent(),
        )


@pytest.fixture
def case(device: torch.device) -> Case:
    return Case(device)


def test_logits_come_closer_on_samples_that_were_not_fitted(case: Case) -> None:
    before = distance(case.dense, case.small, case.held_out)
    after = distance(case.dense, case.distilled(samples(1024), Distillation(epochs=8)), case.held_out)
    assert after < 0.5 * before


def test_labels_are_not_read(case: Case) -> None:
    one, other = case.distilled(samples(label=0)), case.distilled(samples(label=2))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_the_given_networks_stay_as_they_were(case: Case) -> None:
    before = [copy.deepcopy(m.state_dict()) for m in (case.dense, case.small)]
    modes = [m.training for m in case.small.modules()]
    found = case.distilled()
    for m, kept in zip((case.dense, case.small), before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in m.state_dict().items())
        assert not any(p.grad is not None for p in m.parameters())
    assert [m.training for m in found.modules()] == modes


def test_batch_norms_are_as_in_training_and_dropout_is_not(case: Case) -> None:
    seen: list[tuple[bool, ...]] = []
    case.small[1].register_forward_hook(lambda m, *_: seen.append(("norm", m.training)))
    case.small[5].register_forward_hook(lambda m, *_: seen.append(("dropout", m.training)))
    case.distilled(how=Distillation(epochs=1))
    assert ("norm", True) in seen
    assert ("dropout", True) not in seen


def test_one_step_is_the_gradient_of_the_printed_distance(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW's first step is lr times the sign of the gradient, where that is far from zero."""
    monkeypatch.setattr(distillation, "RATES", (1e-4,))
    judged = iter((1.0, 0.0))
    monkeypatch.setattr(distillation, "distance", lambda *_: next(judged))  # a single step need not help
    data = samples(32)
    found = case.distilled(data, Distillation(epochs=1))
    expected = copy.deepcopy(case.small).double().eval()
    expected[1].train()
    with torch.no_grad():
        target = case.dense(data.x.to(case.held_out)).double()
    gap = expected(data.x.to(case.held_out).double()) - target
    gap = gap - gap.mean(1, keepdim=True)
    (gap.square().sum() / (3 * 32)).backward()
    moved = 0
    for p, new, old in zip(expected.parameters(), found.parameters(), case.small.parameters(), strict=True):
        assert p.grad is not None
        clear = p.grad.abs() > 1e-4
        moved += int(clear.sum())
        step = (new.double() - old.double())[clear]
        torch.testing.assert_close(step, -1e-4 * p.grad[clear].sign(), rtol=2e-2, atol=0)
    assert moved > 20


def test_a_rate_that_does_not_help_is_followed_by_a_smaller_one(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "RATES", (1e3, 2e-3))
    after = distance(case.dense, case.distilled(), case.held_out)
    assert after < distance(case.dense, case.small, case.held_out)


def test_where_no_rate_helps_the_network_is_given_back(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "RATES", (1e3,))
    assert case.distilled() is case.small


def test_nothing_to_do(case: Case) -> None:
    assert case.distilled(how=replace(case.how, epochs=0)) is case.small
    assert case.distilled(samples(1)) is case.small
    for p in case.small.parameters():
        p.requires_grad_(False)
    assert case.distilled() is case.small


def test_it_is_the_same_every_time(case: Case) -> None:
    torch.manual_seed(5)
    one = case.distilled()
    torch.manual_seed(6)
    other = case.distilled()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_inputs_are_changed_for_both_networks_alike(case: Case) -> None:
    def noisy(x: Tensor, *, rows: object = None) -> Tensor:
        del rows
        return x + torch.randn_like(x)

    seen: dict[str, list[Tensor]] = {"dense": [], "small": []}
    case.dense.register_forward_hook(lambda _, x, __: seen["dense"].append(x[0].clone()))
    case.small.register_forward_hook(lambda m, x, _: seen["small"].append(x[0].clone()) if m[1].training else None)
    case.distilled(samples(64), Distillation(epochs=1, augment=noisy))
    (fitted,) = seen["small"]
    assert not any(torch.equal(row, old) for row in fitted.cpu() for old in images(64, 1))
    assert any(torch.equal(fitted, x) for x in seen["dense"])
