"""INF-CP in the training loop: phases, targets, the decided plan, and a surgery that changes nothing."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from easy_training import Telling, images, same
from infprune import cost, selection
from infprune.coupling.couple import couple
from infprune.data.loaders import batches
from infprune.errors import ConfigError
from infprune.joint import micro_convolution as micro
from infprune.joint.inf_cp import InfCp, Settings
from infprune.proof import difference
from infprune.scores.contract import ChannelScores
from infprune.selection import Budget, Limits
from infprune.surgery import cut
from infprune.training import Recipe, train

RECIPE = Recipe(epochs=6, batch_size=10, lr=0.02)  # 36 steps


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 81, 10),
        nn.ReLU(),
        nn.Linear(10, 3),
    )


def plugin(module, settings=None, budget=None):
    coupling = couple(module, images().x[:2])

    def select(scores):
        named = ChannelScores("inf-cp", "", dict(scores))
        return selection.select(coupling, coupling.prunable, named, budget or Budget(rate=0.5), Limits("global"))

    return coupling, InfCp(module, coupling.prunable, select, settings or Settings(every=3))


def learned(settings=None, budget=None, recipe=RECIPE, **options):
    module = network()
    coupling, made = plugin(module, settings, budget)
    trained = train(module, images(), batches(images(), 32), recipe, seed=5, plugin=made, **options)
    return coupling, made, trained


SETTINGS = {
    "together": Settings(every=3),
    "layerwise": Settings(order="layerwise", every=1),
    "one phase": Settings(apart=False, every=3),
    "embedding": Settings(target="embedding", every=3),
    "not rescaled": Settings(rescale=False, every=3),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_surgery_changes_nothing_and_the_budget_is_met(name):
    coupling, made, trained = learned(SETTINGS[name])
    plan = made.plan()
    assert plan.rate == pytest.approx(0.5, abs=1 / 24)
    assert plan.rate <= 0.5
    small = cut(trained.module, coupling, plan.masks)
    error, reason = difference(made.view(trained.module), small, (images().x,))
    assert reason is None
    assert error < 1e-5
    assert not torch.allclose(small(images().x), trained.module.eval()(images().x), rtol=1e-2)


@pytest.mark.parametrize("settings", [Settings(every=2), Settings(every=2, order="layerwise")])
@pytest.mark.parametrize("budget", [Budget(rate=0.2), Budget(rate=0.85), Budget(macs=0.15), Budget(params=0.3)])
def test_budgets_hold_whatever_the_influence(settings, budget):
    """Phases decide one after another; together they must neither miss nor overshoot what was asked."""
    module = network()
    for seed in range(4):
        coupling, made = plugin(module, settings, budget)
        generator = torch.Generator().manual_seed(seed)
        for layer in coupling.prunable:
            values = torch.rand(layer.size, generator=generator) ** 8
            made.influence.channels[layer.name] = 0 * values if seed == 3 else values  # a perfect fit has none
        kept = made.plan().kept
        dense, left = cost.count(coupling), cost.count(coupling, kept)
        if budget.rate is not None:
            gone = 24 - sum(kept.values())
            assert 0 <= budget.rate * 24 - gone < 1, (seed, kept)
        else:
            kind = budget.kind
            assert left.of(kind) <= budget.allowed(dense.of(kind)), (seed, kept)


def test_a_budget_in_macs_is_met():
    coupling, made, _ = learned(budget=Budget(macs=0.4))
    dense, left = cost.count(coupling).macs, cost.count(coupling, made.plan().kept).macs
    assert 0.3 * dense < left <= 0.4 * dense


def test_it_learns_the_task_meanwhile():
    _, _, trained = learned(recipe=replace(RECIPE, epochs=8))
    assert trained.history[-1].validation_accuracy > 0.9


def test_the_first_steps_leave_the_network_whole_then_gates_move():
    _, made, _ = learned()
    rates = [(record.done, record.removed) for record in made.history]
    assert all(removed == 0 for done, removed in rates if done < 0.05)
    assert rates[-1][1] == pytest.approx(made.plan().rate, abs=1e-6)
    assert any(0.01 < removed < 0.45 for _, removed in rates)
    last = made.history[-1].layers
    assert all(row["binarity"] == 1.0 for row in last.values())


def test_phases_take_convolutions_before_fully_connected_layers():
    module = network()
    convolutions = ["0", "3"]
    assert plugin(module, Settings())[1]._phases == [convolutions, ["7"]]
    assert plugin(module, Settings(apart=False))[1]._phases == [[*convolutions, "7"]]
    assert plugin(module, Settings(order="layerwise"))[1]._phases == [["0"], ["3"], ["7"]]
    _, made, _ = learned(SETTINGS["layerwise"])
    first = next(r for r in made.history if r.layers["0"]["binarity"] > 0)
    assert first.layers["7"]["removed"] == 0.0
    later = next(r for r in made.history if r.layers["7"]["beta"] > 0)
    assert later.layers["0"]["binarity"] == 1.0
    assert later.layers["0"]["beta"] == 0.0


def test_penalty_is_equation_8():
    module = network().eval()
    _, made = plugin(module, Settings(every=1, apart=False))
    x, y = images().x, images().y
    for done in (0.05, 0.11, 0.12):
        F.cross_entropy(made.logits(module, x), y).backward()
        made.observe(module)
        made.step(done)
    made.logits(module, x)
    expected = 0.0
    for name, learner in made._learners.items():
        e = learner.scale * (
            micro.embedding(made.influence.weights[name], learner.kernel) - learner.threshold - learner.bias
        )
        b = torch.sigmoid(learner.beta * e)
        kept, target = float((b / b.max()).mean().detach()), float(made._targets[name].mean())
        expected = expected + 5 * max(0.0, kept - target) * (b - made._targets[name]).square().sum()
    assert float(expected.detach()) > 0
    assert float(made.penalty().detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_penalty_moves_codes_towards_their_targets_and_not_the_weights():
    module = network().eval()
    _, made = plugin(module, Settings(every=1, apart=False, lr=0.05))
    x, y = images().x, images().y
    for done in (0.05, 0.11, 0.12):
        F.cross_entropy(made.logits(module, x), y).backward()
        made.observe(module)
        made.step(done)
    module.zero_grad()
    distances = []
    for _ in range(5):
        made.logits(module, x)
        penalty = made.penalty()
        distances.append(float(penalty.detach()))
        penalty.backward()
        for learner in made._learners.values():
            learner.step()
    assert distances == sorted(distances, reverse=True)
    assert all(p.grad is None or float(p.grad.abs().max()) == 0 for p in module.parameters())


def test_as_printed_the_embedding_cannot_close_a_channel():
    """Eq. 8 draws E_l to 0 where T_l is 0, and sigmoid(beta 0) = 1/2 whatever beta: the print leaves it half open."""
    e = torch.tensor([0.0, 1.0])
    for beta in (0.01, 1.0, 100.0):
        assert float(micro.code(e, beta)[0]) == 0.5


@pytest.mark.parametrize("stop", [7, 15, 22, 33])  # steps: after measuring, learning, deciding, settling
def test_resumed_equals_uninterrupted(stop, tmp_path):
    _, whole, trained = learned()
    file = tmp_path / "joint.ckpt"
    with pytest.raises(KeyboardInterrupt):
        learned(checkpoint=file, resume=True, progress=Telling(stop))
    assert file.exists()
    _, made, resumed = learned(checkpoint=file, resume=True)
    assert same(resumed.module, trained.module)
    assert resumed.history == trained.history
    assert made.history == whole.history
    assert all(torch.equal(a, b) for a, b in zip(made.plan().masks.values(), whole.plan().masks.values(), strict=True))


def test_a_checkpoint_without_masks_is_refused(tmp_path):
    file = tmp_path / "joint.ckpt"
    train(network(), images(), batches(images(), 32), RECIPE, seed=5, checkpoint=file)
    with pytest.raises(ConfigError, match="it belongs to another network"):
        learned(checkpoint=file, resume=True)


def test_training_that_ends_early_is_decided_at_once():
    module = network().eval()
    _, made = plugin(module)
    F.cross_entropy(made.logits(module, images().x), images().y).backward()
    made.observe(module)
    made.step(0.01)
    assert 0.4 < made.plan().rate <= 0.5


def test_notes_tell_where_the_masks_are():
    progress = Telling()
    learned(progress=progress)
    assert "binarity" in progress.notes[20]
    assert "removed" in progress.notes[20]


def test_one_schedule_over_both_parts():
    """The learning rate of the rest goes on where the learning part left it."""
    whole, parts = network(), network()
    train(whole, images(), batches(images(), 32), Recipe(epochs=4, batch_size=20), seed=5)
    for begun in (0, 2):
        recipe = Recipe(epochs=2, batch_size=20, begun=begun, total=4, momentum=0.0)
        history = train(parts, images(), batches(images(), 32), recipe, seed=5).history
        assert [e.epoch for e in history] == [begun + 1, begun + 2]
    plain = network()
    train(plain, images(), batches(images(), 32), Recipe(epochs=4, batch_size=20, momentum=0.0), seed=5)
    assert same(parts, plain)
    assert not same(parts, whole)
