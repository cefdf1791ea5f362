"""Methods that train: el2n, grand, forgetting, memorisation; and prototypes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from problems import blobs, inputs, network
from torch import nn
from torch.nn import functional as F

import reference
from infprune.attribution import METHODS, el2n, forgetting, grand, memorisation, prototypes, random
from infprune.attribution.contract import Forgets, Need
from infprune.attribution.packing import is_packed, packed, unpacked
from infprune.errors import ConfigError
from infprune.training import train


def _early(seed, epochs=1):
    """The network that el2n and grand look at."""
    x, y = blobs()
    task = inputs(x, y)
    recipe = replace(task.learning.recipe, epochs=epochs, total=3)
    return train(network(seed), task.train, task.learning.validation, recipe, seed=seed).module.eval()


def test_el2n_is_the_mean_error_over_seeds():
    x, y = blobs()
    truth = [(_early(s)(x).detach().double().softmax(1) - F.one_hot(y)).norm(dim=1) for s in (4, 5)]
    found = el2n.compute(inputs(x, y, seed=4, seeds=2, epochs=1))
    torch.testing.assert_close(found.scores, torch.stack(truth).mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.details["spread"], torch.stack(truth).std(0), rtol=1e-4, atol=1e-6)


def test_grand_is_the_norm_of_each_gradient():
    x, y = blobs()
    truth = reference.sample_gradients(_early(0), x, y).norm(dim=1).double()
    found = grand.compute(inputs(x, y, seeds=1, epochs=1))
    torch.testing.assert_close(found.scores, truth, rtol=1e-5, atol=1e-6)


def test_more_early_epochs_than_the_training_has_are_refused():
    x, y = blobs()
    with pytest.raises(ConfigError, match=r"at most train\.epochs=3, got 4"):
        el2n.compute(inputs(x, y, epochs=4))


class _Script(nn.Module):
    """Is right about the samples whose turn says so, whatever it learns."""

    def __init__(self, plan):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.plan, self.seen = plan, [0] * len(plan)

    def forward(self, x):
        z = torch.zeros(len(x), 2)
        for row, n in enumerate(x[:, 0].long().tolist()):
            right = self.plan[n][min(self.seen[n], len(self.plan[n]) - 1)]
            self.seen[n] += self.training
            z[row, 0 if right else 1] = 1.0
        return z * self.weight


def test_forgetting_counts_right_then_wrong():
    plan = [[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]
    x, y = torch.arange(5.0)[:, None], torch.zeros(5, dtype=torch.int64)
    task = inputs(x, y, passes=4, seeds=1, batch=5, fresh=lambda _: _Script(plan))
    task = replace(task, learning=replace(task.learning, validation=[(x, y)]))
    found = forgetting.compute(task)
    truth = [float(n) for n in reference.forgetting_events(plan)]
    truth[2] = 4.0  # never right
    assert found.scores.tolist() == truth == [2.0, 0.0, 4.0, 1.0, 0.0]
    assert found.details["never"].tolist() == [0, 0, 1, 0, 0]
    assert found.details["learned"].tolist() == [0, 0, 4, 1, 2]


def test_counting_does_not_change_the_training():
    x, y = blobs()
    task, made = inputs(x, y, seeds=1), []

    def fresh(seed):
        made.append(network(seed))
        return made[-1]

    forgetting.compute(replace(task, learning=replace(task.learning, fresh=fresh)))
    plain = train(network(0), task.train, task.learning.validation, task.learning.recipe, seed=0).module
    for a, b in zip(made[0].parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_augmentation_sees_no_positions():
    changed = forgetting.numbered(lambda x, **_: 2 * x)((torch.ones(2, 3), torch.tensor([4, 7])))
    assert changed[0].eq(2).all()
    assert changed[1].tolist() == [4, 7]


def test_a_counter_goes_on_from_its_state():
    counter = forgetting.Counter(torch.zeros(3, dtype=torch.int64))
    module = nn.Linear(1, 2)
    counter.logits(module, (torch.ones(2, 1), torch.tensor([0, 2])))
    other = forgetting.Counter(torch.zeros(3, dtype=torch.int64))
    other.restore(counter.state())
    for key, value in counter.state().items():
        assert torch.equal(other.state()[key], value)


def test_every_sample_is_in_the_same_number_of_subsets():
    inside = memorisation.membership(50, 10, 0.7, seed=3)
    assert inside.sum(0).tolist() == [7] * 50
    assert len({int(n) for n in inside.sum(1)}) > 1
    with pytest.raises(ConfigError, match=r"raise samples\.subsets"):
        memorisation.membership(50, 3, 0.9, seed=0)


def test_memorisation_is_accuracy_with_minus_accuracy_without():
    inside = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]]).bool()
    right = torch.tensor([[1, 0], [1, 1], [1, 0], [0, 1]]).double()
    loss = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]]).double()
    found = memorisation.estimated(inside, right, loss)
    assert found.scores.tolist() == [0.5, 0.0]
    assert found.details["loss_with"].tolist() == [2.0, 5.0]
    assert found.details["loss_without"].tolist() == [6.0, 5.0]


def test_a_mislabelled_sample_is_memorised():
    x, y = blobs(40)
    x = x + 5 * F.one_hot(y, 4)
    y = y.clone()
    y[7] = (y[7] + 1) % 3

    def wide(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 200), nn.ReLU(), nn.Linear(200, 3))

    found = memorisation.compute(inputs(x, y, fresh=wide, passes=120, subsets=6, share=0.5))
    assert found.scores[7] == found.scores.max() > 0.6
    assert found.details["accuracy_without"][7] == 0
    assert found.scores.median() == 0


def test_finished_trainings_are_not_repeated():
    x, y = blobs()
    task, trained = inputs(x, y, seeds=2, epochs=1), []

    def fresh(seed):
        trained.append(seed)
        return network(seed)

    task = replace(task, learning=replace(task.learning, fresh=fresh), keep=Forgets())
    first = el2n.compute(task)
    again = el2n.compute(task)
    assert trained == [0, 1]
    assert torch.equal(first.scores, again.scores)


def test_prototypes_are_the_means_of_the_classes():
    x, y = blobs()
    module = network().eval()
    E = module[:2](x).detach().double()
    truth = torch.stack([(e - E[y == c].mean(0)).norm() for e, c in zip(E, y, strict=True)])
    torch.testing.assert_close(prototypes.compute(inputs(x, y, module)).scores, truth, rtol=1e-5, atol=1e-6)
    named = prototypes.compute(inputs(x, y, module, layer="1"))
    torch.testing.assert_close(named.scores, truth, rtol=1e-5, atol=1e-6)


def test_prototypes_without_labels_do_not_look_at_them():
    x, y = blobs()
    module = network().eval()
    one = prototypes.compute(inputs(x, y, module, balanced=False, clusters=3))
    other = prototypes.compute(inputs(x, y.flip(0), module, balanced=False, clusters=3))
    assert torch.equal(one.scores, other.scores)
    assert one.details["cluster"].unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layer": "3"}, r"no layer '3'; the closest are"),
        ({"clusters": 21}, r"at most 20, a class has only 20 samples; got 21"),
        ({"clusters": 61, "balanced": False}, r"at most 60, there are only 60 samples; got 61"),
    ],
)
def test_what_cannot_be_clustered_is_told(options, told):
    x, y = blobs()
    with pytest.raises(ConfigError, match=told):
        prototypes.compute(inputs(x, y, network().eval(), **options))


def test_random_depends_on_the_seed_alone():
    task = SimpleNamespace(seed=3, train=range(5))
    assert torch.equal(random.compute(task).scores, random.compute(task).scores)
    assert not torch.equal(random.compute(task).scores, random.compute(SimpleNamespace(seed=4, train=range(5))).scores)


def test_packing_is_lossless_and_judged():
    values = torch.randn(7, dtype=torch.float64)
    assert torch.equal(unpacked(packed(values)), values)
    assert is_packed(packed(values), 7)
    bad = [packed(values)[:-4], "x", "é", 3, packed(values * torch.inf), packed(values[:6])]
    assert not any(is_packed(value, 7) for value in bad)


def test_every_method_says_what_a_large_score_means():
    for name, method in METHODS.items():
        assert method.unit, name
        assert ":" in method.meaning or method.need is Need.NOTHING, name
