import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import reference
from cases import CASES, LABELS, coupled
from infprune import config
from infprune.coupling.couple import couple
from infprune.coupling.groups import Role
from infprune.errors import ConfigError, InputError
from infprune.scores import SCORES, measure, theorem1
from infprune.scores.contract import Need, ScoringInputs, Statistics

EXACT = {"rtol": 1e-8, "atol": 1e-10}


def loaded(name):
    module, x = CASES[name]()
    return module.double(), x.double(), coupled(name).prunable


def values(criterion, module, layers, batches, *, seed=0, draws=1, damping=None):
    statistics = measure.collect(module, layers, batches, measure.needs_of([criterion]), seed=seed, draws=draws)
    return measure.score(criterion, ScoringInputs(module, layers, statistics, damping, seed)).values


def suits(criterion, layers):
    norms = [[s for s in layer.having(Role.THROUGH) if s.tensor.endswith("running_mean")] for layer in layers]
    return criterion != "bn-scale" or all(norms)


def readers(layer):
    return {s.tensor.rpartition(".")[0]: s.index for s in layer.having(Role.CONSUMER)}


PAIRS = [(criterion, name) for criterion in SCORES for name in CASES]
NORMED = {"bias-free", "residual"}


# --- every criterion, every network -----------------------------------------------------------------------------------


def test_the_configuration_offers_every_criterion():
    assert set(config.CRITERIA) == set(SCORES)


@pytest.mark.parametrize(("criterion", "name"), PAIRS)
def test_contract(criterion, name, device):
    module, x, layers = loaded(name)
    module, batches = (
        module.to(device),
        [(x[:4].to(device), LABELS[:4].to(device)), (x[4:].to(device), LABELS[4:].to(device))],
    )
    if not suits(criterion, layers):
        with pytest.raises(ConfigError, match=r"expected a batch norm behind every prunable layer, \S+ has none"):
            values(criterion, module, layers, batches)
        return
    found = values(criterion, module, layers, batches)
    assert list(found) == [layer.name for layer in layers]
    for layer in layers:
        scores = found[layer.name]
        assert (scores.shape, scores.dtype, scores.device.type) == ((layer.size,), torch.float64, "cpu")
        assert torch.isfinite(scores).all()
        assert bool((scores >= 0).all())
        assert len(scores.unique()) > 1
    again = values(criterion, module, layers, batches)
    assert all(torch.equal(again[layer], found[layer]) for layer in found)


def test_batch_norm_scale_suits_some_of_the_cases():
    assert {name for name in CASES if suits("bn-scale", coupled(name).prunable)} == NORMED


@pytest.mark.parametrize("criterion", ["influence", "theorem1", "gate", "random"])
def test_another_seed_gives_other_values(criterion):
    module, x, layers = loaded("plain")
    one, other = (values(criterion, module, layers, [(x, LABELS)], seed=seed) for seed in (0, 1))
    assert not all(torch.equal(one[layer.name], other[layer.name]) for layer in layers)


@pytest.mark.parametrize("criterion", ["inf-cp", "taylor", "magnitude"])
def test_these_do_not_depend_on_the_seed(criterion):
    module, x, layers = loaded("plain")
    one, other = (values(criterion, module, layers, [(x, LABELS)], seed=seed) for seed in (0, 1))
    assert all(torch.equal(one[layer.name], other[layer.name]) for layer in layers)


def test_no_need_no_pass():
    module, _, layers = loaded("plain")

    def forbidden():
        raise AssertionError
        yield

    found = measure.collect(module, layers, forbidden(), measure.needs_of(["magnitude", "random"]), seed=0, draws=1)
    assert found == Statistics()


def test_one_pass_serves_all_criteria():
    module, x, layers = loaded("residual")
    batches = [(x[:4], LABELS[:4]), (x[4:], LABELS[4:])]
    shared = measure.collect(module, layers, batches, measure.needs_of(SCORES), seed=2, draws=2)
    for criterion in SCORES:
        together = measure.score(criterion, ScoringInputs(module, layers, shared, None, 2))
        alone = values(criterion, module, layers, batches, seed=2, draws=2)
        assert (together.criterion, together.unit) == (criterion, SCORES[criterion].unit)
        for layer, truth in alone.items():
            assert_close(together.values[layer], truth, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("criterion", [name for name in SCORES if name not in {"random", "bn-scale"}])
def test_nan_in_the_weights_is_an_input_error(criterion):
    module, x, layers = loaded("plain")
    module[2].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        values(criterion, module, layers, [(x, LABELS)])


class Idle(nn.Module):
    """A branch is computed whose output nobody uses."""

    def __init__(self):
        super().__init__()
        self.body, self.idle, self.head = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(self.body(x))
        self.idle(x)
        return self.head(x)


@pytest.mark.parametrize("criterion", [c for c in SCORES if c != "bn-scale"])
def test_a_branch_without_effect_does_no_harm(criterion):
    net, x = Idle().double(), torch.randn(6, 4, dtype=torch.float64)
    layers = couple(net, x).prunable
    found = values(criterion, net, layers, [(x, torch.arange(6) % 3)])
    assert [len(scores) for scores in found.values()] == [layer.size for layer in layers]
    assert (found["body"] > 0).all()


def test_too_wide_for_the_gram_matrix(monkeypatch):
    module, x, layers = loaded("plain")
    monkeypatch.setattr(measure, "WIDEST", 54)
    with pytest.raises(ConfigError, match="2 reads 55 inputs"):
        values("influence", module, layers, [(x, LABELS)])
    assert values("gate", module, layers, [(x, LABELS)]).keys() == {"0", "2", "6"}
    narrow = measure.collect(module, layers, [(x, LABELS)], frozenset({Need.MOMENTS}), seed=0, draws=1).moments
    monkeypatch.undo()
    whole = measure.collect(module, layers, [(x, LABELS)], frozenset({Need.KRONECKER}), seed=0, draws=1)
    assert narrow.keys() == whole.kronecker.keys() - {"2"}
    assert whole.moments.keys() == whole.kronecker.keys()
    for name, A in narrow.items():
        assert_close(A.dense(), whole.kronecker[name].inputs.dense(), rtol=1e-12, atol=0)


# --- what each of them is ---------------------------------------------------------------------------------------------


def test_magnitude_by_hand():
    net = nn.Sequential(nn.Conv2d(1, 2, (1, 2)), nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    net[0].weight.data = torch.tensor([[[[1.0, -2.0]]], [[[0.0, 9.0]]]]).double()
    net[2].weight.data = torch.tensor([[1.0, 1.0], [-2.0, 0.0], [0.0, 5.0]]).double()
    layers = couple(net, torch.zeros(4, 1, 1, 2).double()).prunable
    found = values("magnitude", net, layers, [])
    assert found["0"].tolist() == pytest.approx([0.5, 1.5])
    assert found["2"].tolist() == pytest.approx([2 / 3, 2 / 3, 5 / 3])


def test_magnitude_adds_all_filters_of_a_residual_channel():
    module, _, layers = loaded("residual")
    total = sum(m.weight.detach().abs().sum((1, 2, 3)) for m in (module.conv2, module.shortcut, module.conv4))
    assert_close(values("magnitude", module, layers, [])["conv2"], total / total.mean(), **EXACT)


def test_magnitude_adds_both_groups_of_a_channel():
    module, _, layers = loaded("grouped")
    norms = module[0].weight.detach().abs().sum((1, 2, 3))
    total = norms[:4] + norms[4:]
    assert_close(values("magnitude", module, layers, [])["0"], total / total.mean(), **EXACT)


def test_batch_norm_scale_adds_the_norms_of_a_residual_channel():
    module, _, layers = loaded("residual")
    module.bn2.weight.data[3] = -7.0
    found = values("bn-scale", module, layers, [])
    assert_close(found["stem"], module.stem_bn.weight.detach().abs(), **EXACT)
    truth = sum(m.weight.detach().abs() for m in (module.bn2, module.shortcut_bn, module.bn4))
    assert_close(found["conv2"], truth, **EXACT)
    assert int(found["conv2"].argmax()) == 3


@pytest.mark.parametrize("name", ["plain", "residual", "grouped", "reused", "sequence"])
def test_taylor_is_the_mean_size_of_the_gate_gradients(name):
    module, x, layers = loaded(name)
    found = values("taylor", module, layers, [(x[:4], LABELS[:4]), (x[4:], LABELS[4:])])
    for layer in layers:
        truth = reference.gate_gradients(module, x, LABELS, readers(layer)).abs().mean(0)
        assert_close(found[layer.name], truth, **EXACT)


@pytest.mark.parametrize("name", ["mlp", "residual", "reused"])
def test_gate_eliminates_on_the_fisher_of_real_gates(name):
    module, x, layers = loaded(name)
    labels = reference.drawn_labels(module(x), 3)
    Z = torch.cat([reference.gate_gradients(module, x, labels, readers(layer)) for layer in layers], dim=1)
    H, ones = Z.T @ Z / len(x) + 0.01 * torch.eye(Z.shape[1], dtype=Z.dtype), torch.ones(Z.shape[1], dtype=Z.dtype)
    truth, _ = reference.eliminated(lambda gone: float(reference.retrained(H, ones, gone)[1]), len(H))
    found = values("gate", module, layers, [(x, LABELS)], seed=3, damping=0.01)
    assert_close(torch.cat(list(found.values())), truth, **EXACT)


def consumer_problem(module, name, x):
    """Columns and outputs of a weight over all its calls: `(G, D, N * P)`, bias row last, and `(G, O / G, N * P)`."""
    owner, calls = module.get_submodule(name), []
    hook = owner.register_forward_hook(lambda _, args, y: calls.append((args[0].detach().clone(), y.detach().clone())))
    module(x)
    hook.remove()
    X = torch.cat([reference.columns(owner, a, ones=True) for a, _ in calls], dim=2)
    return X, torch.cat([reference.rows(owner, y) for _, y in calls], dim=2)


def read_columns(module, name, index):
    """Im2col rows that belong to each channel."""
    kernel = module.get_submodule(name).weight.shape[2:].numel()
    return [[i * kernel + k for i in positions for k in range(kernel)] for positions in index.tolist()]


@pytest.mark.parametrize("name", ["mlp", "residual", "concat", "grouped", "reused", "conv1d"])
def test_influence_is_the_loss_left_after_least_squares_refits(name):
    """Greedy removal within a layer. The loss of a set is 1/2 E_n sum_p r^T G r over its consumers, with r what no
    refit of the columns that stay, bias included, explains of the consumer's outputs."""
    module, x, layers = loaded(name)
    x = torch.randn(60, *x.shape[1:], dtype=torch.float64)
    batches = [(x, torch.zeros(60, dtype=torch.int64))]
    statistics = measure.collect(module, layers, batches, measure.needs_of(["influence"]), seed=0, draws=1)
    found = measure.score("influence", ScoringInputs(module, layers, statistics, 1e-10)).values
    for layer in layers:
        problems = [
            (*consumer_problem(module, consumer, x), read_columns(module, consumer, index), consumer)
            for consumer, index in readers(layer).items()
        ]

        def total(gone, problems=problems):
            loss = 0.0
            for X, Y, columns, consumer in problems:
                stay = [i for i in range(X.shape[1]) if all(i not in columns[c] for c in gone)]
                rest = Y - reference.least_squares(X[:, stay], Y) @ X[:, stay]
                G = statistics.kronecker[consumer].gradients
                loss += 0.5 * float((G * (rest @ rest.mT)).sum()) / len(x)
            return loss

        truth = reference.prices(total, layer.size)
        assert truth.max() > 1e-5
        assert_close(found[layer.name], truth, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["mlp", "concat"])
def test_theorem1_is_lemma_1_on_the_dense_curvature(name):
    module, x, layers = loaded(name)
    damping = 0.05
    statistics = measure.collect(module, layers, [(x, LABELS)], measure.needs_of(["theorem1"]), seed=0, draws=1)
    found = theorem1.THEOREM1.score(ScoringInputs(module, layers, statistics, damping))
    for layer in layers:
        truth = torch.zeros(layer.size, dtype=torch.float64)
        for consumer, index in readers(layer).items():
            A, G = statistics.kronecker[consumer].inputs.dense()[0], statistics.kronecker[consumer].gradients[0]
            eye = torch.eye(len(A) + len(G), dtype=A.dtype)
            A, G = A + damping * eye[: len(A), : len(A)], G + damping * eye[: len(G), : len(G)]
            owner = module.get_submodule(consumer)
            theta = torch.cat([owner.weight.detach().flatten(1), owner.bias.detach()[:, None]], dim=1).flatten()
            for c, columns in enumerate(read_columns(module, consumer, index)):
                w = torch.zeros(len(G), len(A), dtype=A.dtype)
                w[:, columns] = 1
                truth[c] += reference.theorem1(torch.kron(G, A), theta, w.flatten())[2]
        assert_close(found[layer.name], truth, **EXACT)


@pytest.mark.parametrize("criterion", [name for name, entry in SCORES.items() if entry.separable])
def test_the_scores_of_a_layer_do_not_depend_on_the_others(criterion):
    module, x, layers = loaded("concat")
    together = values(criterion, module, layers, [(x, LABELS)])
    for layer in layers:
        alone = values(criterion, module, [layer], [(x, LABELS)])[layer.name]
        assert_close(together[layer.name], alone, rtol=1e-9, atol=0)


# --- what the influence must know -------------------------------------------------------------------------------------


def test_channels_that_nobody_uses_are_the_first_to_go():
    module, x, layers = loaded("residual")
    for consumer in (module.conv1, module.shortcut):
        consumer.weight.data[:, 2] = 0
    found = values("influence", module, layers, [(x, LABELS)])["stem"]
    assert found[2] == 0
    assert int(found.argmin()) == 2
    assert found.sort().values[1] > 1e-6


def test_a_channel_read_by_one_consumer_only_is_still_used():
    module, x, layers = loaded("residual")
    module.conv1.weight.data[:, 2] = 0
    assert values("influence", module, layers, [(x, LABELS)])["stem"][2] > 1e-6


def test_a_twin_is_worth_nothing_however_large_it_is():
    """Each of two equal channels is predicted by the other: one goes for free, the one that is left is dear."""
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    net[0].weight.data[5], net[0].bias.data[5] = 3 * net[0].weight[5], 3 * net[0].bias[5]
    net[0].weight.data[2], net[0].bias.data[2] = net[0].weight[5], net[0].bias[5]
    x, y = torch.randn(200, 6, dtype=torch.float64), torch.randint(4, (200,))
    layers = couple(net, x[:4]).prunable
    influence = values("influence", net, layers, [(x, y)])["0"]
    magnitude = values("magnitude", net, layers, [])["0"]
    cheap, dear = sorted([influence[2].item(), influence[5].item()])
    assert cheap == influence.min()
    assert cheap < 0.02 * influence.sort().values[1]
    assert dear > 100 * cheap
    assert sorted(magnitude.argsort()[-2:].tolist()) == [2, 5]


def test_damping_is_passed_on():
    module, x, layers = loaded("mlp")
    small, large = (values("influence", module, layers, [(x, LABELS)], damping=d) for d in (1e-6, 10.0))
    assert all(bool((large[layer.name] > small[layer.name]).all()) for layer in layers)


def trained(width, seed):
    """Labels drawn from a random teacher: a network that is not sure of itself, its last layer at its optimum."""
    torch.manual_seed(seed)
    teacher = nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    for p in teacher.parameters():
        p.data *= 3
    x = torch.randn(400, 10, dtype=torch.float64)
    y = torch.multinomial(teacher(x).detach().softmax(1), 1)[:, 0]
    net = nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 4)).double()
    first, last = torch.optim.Adam(net.parameters(), lr=0.02), torch.optim.LBFGS(net[2].parameters(), max_iter=60)

    def loss():
        net.zero_grad()
        value = F.cross_entropy(net(x), y)
        value.backward()
        return value

    for _ in range(60):
        loss()
        first.step()
    last.step(loss)
    return net, x, y


def loss_without(net, x, y, gone):
    """Mean loss without some hidden channels, the last layer refitted to the outputs it had."""
    hidden = torch.cat([net[1](net[0](x)).detach().T, torch.ones(1, len(x), dtype=x.dtype)])
    X = hidden[[c for c in range(len(hidden)) if c not in gone]][None]
    V = reference.least_squares(X, net(x).detach().T[None])
    return F.cross_entropy((V @ X)[0].T, y)


def spearman(a, b):
    ranks = torch.stack([v.argsort().argsort().double() for v in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_influence_ranks_channels_by_the_loss_they_cost(seed):
    net, x, y = trained(8, seed)
    layers = couple(net, x[:4]).prunable
    measured = torch.stack([loss_without(net, x, y, [c]) for c in range(8)])

    def agreement(criterion, seed=0):
        return spearman(values(criterion, net, layers, [(x, y)], seed=seed, draws=4)["0"], measured)

    assert agreement("influence") > 0.7
    assert agreement("influence") > sum(agreement("random", seed) for seed in range(10)) / 10 + 0.5
    assert agreement("influence") > agreement("theorem1")  # the row sums of the printed form


@pytest.mark.parametrize("seed", range(3))
def test_removing_in_the_order_of_influence_costs_least(seed):
    net, x, y = trained(16, seed)
    layers = couple(net, x[:4]).prunable

    def curve(criterion, seed=0):
        """Loss with 0, 1, ... 15 channels gone."""
        order = values(criterion, net, layers, [(x, y)], seed=seed, draws=4)["0"].argsort().tolist()
        return torch.stack([loss_without(net, x, y, order[:k]) for k in range(16)])

    influence = curve("influence")
    assert influence.mean() < min(curve("random", seed).mean() for seed in range(5))
    assert influence.mean() < curve("magnitude").mean()
    assert influence.mean() < curve("theorem1").mean()
    added, places = influence.diff(), torch.arange(15)
    assert spearman(added, places) > 0.5  # the later, the dearer: the prices are in the right order
