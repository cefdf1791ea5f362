"""The training loop: it learns, step by step as its recipe says, and repeats itself bit by bit."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from easy_training import RECIPES, Telling, images, network, run, same
from forms import Digits, Packed, TwoInputs, WithAuxiliary, drawn
from infprune.data.dataset import ArrayDataset
from infprune.errors import ConfigError, InputError
from infprune.training import Epoch, Recipe

# --- it learns


@pytest.mark.parametrize("name", RECIPES)
def test_learns_an_easy_problem(name):
    trained = run(replace(RECIPES[name], epochs=6))
    losses = [epoch.loss for epoch in trained.history]
    assert losses[-1] < (0.6 if RECIPES[name].label_smoothing else 0.3) * losses[0]
    assert trained.history[-1].train_accuracy > 0.9
    assert trained.history[-1].validation_accuracy > 0.9
    assert [epoch.epoch for epoch in trained.history] == [1, 2, 3, 4, 5, 6]


def test_history_is_the_mean_over_the_training_batches():
    module = nn.Sequential(nn.Flatten(), nn.Linear(81, 3))
    data = images()
    with torch.no_grad():
        logits = module(data.x)
    for smoothing in (0.0, 0.2):
        trained = run(Recipe(epochs=1, lr=0.0, batch_size=13, label_smoothing=smoothing), module)
        expected = float(F.cross_entropy(logits, data.y, label_smoothing=smoothing))
        right = float((logits.argmax(1) == data.y).double().mean())
        assert trained.history == (Epoch(1, pytest.approx(expected, rel=1e-5), right, right),)
    assert abs(expected - float(F.cross_entropy(logits, data.y))) > 1e-3


def test_trains_in_place_and_leaves_frozen_parameters():
    module = network()
    module[0].weight.requires_grad_(False)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    trained = run(RECIPES["sgd"], module)
    assert trained.module is module
    assert torch.equal(module[0].weight, before["0.weight"])
    assert not torch.equal(module[5].weight, before["5.weight"])
    assert int(module[1].num_batches_tracked) == 4 * 4


def test_a_last_batch_of_one_is_left_out():
    module = network()
    trained = run(Recipe(epochs=2, batch_size=4), module, ArrayDataset(images().x[:5], images().y[:5]))
    assert int(module[1].num_batches_tracked) == 2
    assert all(epoch.loss > 0 for epoch in trained.history)


@pytest.mark.parametrize(("size", "samples"), [(1, 5), (4, 1)])
def test_steps_of_one_sample_are_refused_and_not_passed_over(size, samples):
    data = ArrayDataset(images().x[:samples], images().y[:samples])
    with pytest.raises(ConfigError, match="expected steps of two or more samples"):
        run(Recipe(epochs=1, batch_size=size), network(), data)
    assert run(Recipe(epochs=0, batch_size=size), network(), data).history == ()


# --- the steps


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(81, 3))


def weights_after(monkeypatch, recipe, kind=torch.optim.SGD):
    """(learning rate, weights) at each optimizer step of a run."""
    seen, step = [], kind.step
    module = linear()

    def watched(self, *args, **kwargs):
        result = step(self, *args, **kwargs)
        seen.append((self.param_groups[0]["lr"], module[1].weight.detach().clone()))
        return result

    monkeypatch.setattr(kind, "step", watched)
    return run(recipe, module), seen


def test_cosine_after_warm_up(monkeypatch):
    # 60 samples in batches of 15: 4 steps an epoch; 1 epoch of warm-up to 0.8, then half a cosine over 4 epochs.
    _, seen = weights_after(monkeypatch, Recipe(epochs=5, lr=0.8, warmup_epochs=1.0, batch_size=15))
    rates = [rate for rate, _ in seen]
    assert len(rates) == 20
    assert rates[:4] == pytest.approx([0.0, 0.2, 0.4, 0.6], abs=1e-3)
    assert rates[4] == pytest.approx(0.8)
    assert rates[8] == pytest.approx(0.4 * (1 + math.sqrt(0.5)))
    assert rates[12] == pytest.approx(0.4)
    assert rates[16] == pytest.approx(0.4 * (1 - math.sqrt(0.5)))
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[19] < 0.01


def test_constant_schedule(monkeypatch):
    recipe = Recipe(epochs=3, lr=0.8, schedule="constant", warmup_epochs=0.5, batch_size=15, optimizer="adamw")
    _, seen = weights_after(monkeypatch, recipe, torch.optim.AdamW)
    rates = [rate for rate, _ in seen]
    assert rates[:2] == pytest.approx([0.0, 0.4], abs=2e-3)
    assert rates[2:] == [0.8] * 10


def test_the_first_step_is_never_of_rate_zero(monkeypatch):
    _, seen = weights_after(monkeypatch, Recipe(epochs=1, lr=0.1, warmup_epochs=1.0, batch_size=60))
    assert 0 < seen[0][0] < 1e-3


def test_sgd_is_nesterov_momentum_with_weight_decay():
    module, reference = linear(), linear()
    recipe = Recipe(epochs=3, lr=0.1, momentum=0.9, weight_decay=0.01, schedule="constant", batch_size=60)
    run(recipe, module)
    optimizer = torch.optim.SGD(reference.parameters(), 0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(reference(images().x), images().y).backward()
        optimizer.step()
    assert torch.allclose(module[1].weight, reference[1].weight, rtol=1e-4, atol=1e-6)


def test_clip_norm_bounds_the_step():
    module, start = linear(), linear()
    recipe = Recipe(epochs=1, lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant", batch_size=60)
    run(replace(recipe, clip_norm=1e-3), module)
    moved = [a.detach() - b.detach() for a, b in zip(module.parameters(), start.parameters(), strict=True)]
    assert float(torch.cat([m.flatten() for m in moved]).norm()) == pytest.approx(1e-3, rel=1e-3)
    free = linear()
    run(recipe, free)
    assert float((free[1].weight - start[1].weight).detach().norm()) > 1e-2


def test_the_moving_average(monkeypatch):
    recipe = Recipe(epochs=1, lr=0.1, ema=0.75, batch_size=20)
    trained, ((_, first), (_, second), (_, third)) = weights_after(monkeypatch, recipe)
    expected = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
    assert torch.allclose(trained.module[1].weight, expected, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(trained.module[1].weight, third)


def test_bfloat16_computes_in_less_and_keeps_float32_weights():
    exact, rough = linear(), linear()
    recipe = Recipe(epochs=2, lr=0.1, batch_size=20)
    run(recipe, exact)
    run(replace(recipe, precision="bf16"), rough)
    assert rough[1].weight.dtype == torch.float32
    difference = float((exact[1].weight - rough[1].weight).detach().abs().max())
    assert 1e-6 < difference < 1e-2


# --- it repeats itself


@pytest.mark.parametrize("name", RECIPES)
def test_same_seed_same_bits(name):
    first, again, other = (run(RECIPES[name], seed=seed) for seed in (5, 5, 6))
    assert same(first.module, again.module)
    assert first.history == again.history
    assert not same(first.module, other.module)


def test_every_epoch_has_its_own_order_and_noise():
    orders, noise = [], []

    def watch(x, rows):
        orders.append(tuple(x[:, 0, 0, 0].tolist()))
        noise.append(float(torch.rand(1)))
        return x

    run(Recipe(epochs=3, batch_size=60), augment=watch)
    assert len(set(orders)) == len(set(noise)) == 3
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(images().x[:, 0, 0, 0].tolist()))}


def test_progress_hears_every_step():
    progress = Telling()
    trained = run(Recipe(epochs=2, batch_size=25), progress=progress)
    assert progress.bars == [("epoch 1/2", 3), ("epoch 2/2", 3)]
    assert progress.steps == 6
    last = trained.history[0]
    assert progress.notes[2] == f"loss {last.loss:.4f}  train accuracy {last.train_accuracy:.4f}"


def test_a_loss_that_is_not_finite_is_an_error():
    data = images()
    data.x[7] = math.nan
    with pytest.raises(InputError, match=r"the training loss became nan in epoch 1; lower lr \(now 0.05\)"):
        run(RECIPES["sgd"], data=data)
    with pytest.raises(InputError, match=r"the training loss became (nan|inf) in epoch"):
        run(Recipe(epochs=4, lr=1e30, batch_size=16))


# --- several heads, several inputs


def test_the_loss_is_that_of_the_logits_alone():
    data = ArrayDataset(torch.randn(20, 1, 8, 8), torch.arange(20) % 10)
    one, two = Digits(), WithAuxiliary()
    two.load_state_dict(one.state_dict())
    assert run(RECIPES["sgd"], one, data).history == run(RECIPES["sgd"], two, data).history
    assert same(one, two)


def test_a_head_that_a_cut_has_left_behind_is_passed_by():
    data = ArrayDataset(torch.randn(20, 1, 8, 8), torch.arange(20) % 10)
    module = WithAuxiliary()
    module.side = nn.Linear(99, 10)
    trained = run(replace(RECIPES["sgd"], ema=0.9), module, data, auxiliary=[module.side]).module
    for made in (module, trained):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):  # its own forward is back
            made.train()(data.x)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_two_inputs_train_as_one_that_holds_both(precision):
    *x, y = drawn(40, seed=2)
    one, two = Packed(), TwoInputs()
    two.load_state_dict(one.state_dict())
    recipe = replace(RECIPES["sgd"], precision=precision)
    first = run(recipe, one, ArrayDataset(torch.cat(x, 1), y))
    second = run(recipe, two, ArrayDataset(tuple(x), y))
    # The sum over one input rounds, on some processors, unlike that over two.
    for a, b in zip(first.history, second.history, strict=True):
        assert asdict(a) == pytest.approx(asdict(b), rel=1e-3, abs=1e-5)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert_close(p, q, rtol=1e-3, atol=1e-4)
