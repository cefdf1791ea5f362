"""A network whose weights follow the dense network's logits, without labels."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from infprune import distillation
from infprune.data.dataset import ArrayDataset
from infprune.data.loaders import batches
from infprune.distillation import Attempt, Distillation, distill
from infprune.errors import InputError
from infprune.evaluation import Evaluation, evaluate
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


def samples(count: int = 512, label: int = 0) -> ArrayDataset:
    return ArrayDataset(images(count, 1), torch.full((count,), label))


class Case:
    def __init__(self, device: torch.device) -> None:
        self.dense = network(8, 0, device).eval()
        self.small = network(4, 1, device).eval()
        self.held_out = images(64, 2).to(device)
        with torch.no_grad():
            self.validation = batches(
                ArrayDataset(images(64, 2), self.dense(self.held_out).argmax(1).cpu()), 40, device=device
            )
        self.how = Distillation(epochs=3)

    def distilled(self, data: ArrayDataset | None = None, how: Distillation | None = None) -> nn.Module:
        return distill(
            self.dense,
            self.small,
            data or samples(),
            self.validation,
            how or self.how,
            seed=0,
            auxiliary=(),
            progress=Silent(),
        )


def judging(*losses: float) -> Callable[..., Evaluation]:
    """Validation losses, one after the other; the accuracy is the same."""
    told = iter(losses)
    return lambda *_: Evaluation(0.5, next(told), 1)


def noisy(x: Tensor, *, rows: slice | None = None) -> Tensor:
    """Another batch at every step."""
    del rows
    return x + 0.1 * torch.randn_like(x)


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
    monkeypatch.setattr(distillation, "ATTEMPTS", (Attempt(1e-4, statistics=True),))
    monkeypatch.setattr(distillation, "evaluate", judging(1.0, 0.0))  # a single step need not help
    monkeypatch.setattr(distillation, "LEAST", 2)
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


def test_the_network_of_the_lowest_validation_loss_is_kept(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for i in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(distillation, "evaluate", judging(1.0, *([0.8, 0.9] if i == 0 else [0.9, 0.8])))
            found[i] = case.distilled()
    norm, kept = case.small[1], [f[1] for f in found.values()]
    assert not torch.equal(kept[0].running_mean, norm.running_mean)  # the first attempt takes new statistics
    assert torch.equal(kept[1].running_mean, norm.running_mean)
    assert not torch.equal(found[1][0].weight, case.small[0].weight)


def test_accuracy_counts_before_the_loss(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([Evaluation(0.5, 1.0, 1), Evaluation(0.4, 0.1, 1), Evaluation(0.6, 2.0, 1)])
    monkeypatch.setattr(distillation, "evaluate", lambda *_: next(told))
    found = case.distilled()
    assert found is not case.small
    assert torch.equal(found[1].running_mean, case.small[1].running_mean)  # the second attempt


def test_a_low_rate_is_tried_only_where_the_others_do_not_help(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "evaluate", judging(1.0, 1.1, 1.2, 0.9))
    largest = max(
        float((a - b).detach().abs().max())
        for a, b in zip(case.distilled().parameters(), case.small.parameters(), strict=True)
    )
    assert 0 < largest <= 24 * distillation.LAST.lr  # as many steps


def test_where_no_attempt_helps_the_network_is_given_back(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "evaluate", judging(1.0, 1.1, 1.2, 1.0))
    assert case.distilled() is case.small


def test_an_attempt_that_diverges_is_dropped(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(*_: object, **__: object) -> None:
        raise InputError("the training loss became nan")

    before = evaluate(case.small, case.validation).loss
    monkeypatch.setattr(distillation, "ATTEMPTS", (Attempt(1e30, statistics=False), Attempt(2e-3, statistics=True)))
    assert evaluate(case.distilled(), case.validation).loss < before
    monkeypatch.setattr(distillation, "train", diverging)
    assert case.distilled() is case.small


def test_nothing_to_do(case: Case) -> None:
    assert case.distilled(how=replace(case.how, epochs=0)) is case.small
    assert case.distilled(samples(511)) is case.small
    for p in case.small.parameters():
        p.requires_grad_(False)
    assert case.distilled() is case.small


def test_it_is_the_same_every_time(case: Case) -> None:
    torch.manual_seed(5)
    one = case.distilled()
    torch.manual_seed(6)
    other = case.distilled()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_inputs_are_changed_for_both_networks_alike(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "LEAST", 2)

    def noisy(x: Tensor, *, rows: object = None) -> Tensor:
        del rows
        return x + torch.randn_like(x)

    seen: dict[str, list[Tensor]] = {"dense": [], "small": []}
    case.dense.register_forward_hook(lambda _, x, __: seen["dense"].append(x[0].clone()))
    case.small.register_forward_hook(lambda m, x, _: seen["small"].append(x[0].clone()) if m[1].training else None)
    case.distilled(samples(64), Distillation(epochs=1, augment=noisy))
    (fitted,) = seen["small"]  # of the first attempt: later ones keep the norms' statistics
    assert not any(torch.equal(row, old) for row in fitted.cpu() for old in images(64, 1))
    assert any(torch.equal(fitted, x) for x in seen["dense"])


def test_the_dense_network_is_asked_once_for_all_attempts(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    case.dense.register_forward_hook(lambda _, given, __: asked.append(len(given[0])))
    how = Distillation(epochs=2, augment=noisy)
    once = case.distilled(how=how)
    assert asked == [64] * (2 * 512 // 64)
    monkeypatch.setattr(distillation, "REMEMBERED", 3 * 64 * 3)
    some = case.distilled(how=how)
    steps = 2 * 512 // 64
    assert len(asked) - steps == steps + (steps - 3)
    for name, value in once.state_dict().items():
        assert torch.equal(value, some.state_dict()[name]), name


def test_other_batches_are_not_given_remembered_logits(case: Case) -> None:
    followed = distillation._Followed(case.dense)
    x = case.held_out
    first = followed.logits(x)
    again = followed.again().logits(x[:32])
    torch.testing.assert_close(again, first[:32])
    assert len(again) == 32
