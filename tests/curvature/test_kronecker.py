import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import reference
from cases import CASES, LABELS, coupled
from infprune.coupling.groups import Role
from infprune.curvature.kronecker import KroneckerObserver
from infprune.curvature.sweep import LabelSource, Sweep

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def at_the_labels_of_the_data(names):
    return KroneckerObserver(names, labels=LabelSource.DATA)


def factors(module, names, batches, observer=None, *, draws=1, seed=0):
    observer = (observer or KroneckerObserver)(names)
    Sweep(module, names, [observer]).run(batches, seed=seed, draws=draws)
    return observer.result(draws)


def recorded(module, name, x):
    """Inputs and outputs of all calls of a weight, in the graph of one forward pass; and the logits."""
    weight, calls, hooks = module.get_submodule(name).weight, [], []

    def record(_, args, y):
        calls.append((args[0].detach(), y.clone()))  # cloned: what follows may work in place
        return calls[-1][1]

    for owner in module.modules():
        if getattr(owner, "weight", None) is weight:
            hooks += [owner.register_forward_hook(record)]
    logits = module(x)
    for hook in hooks:
        hook.remove()
    return calls, logits


@pytest.mark.parametrize("name", CASES)
def test_factors_are_the_means(name):
    """A = E_n sum_p a a^T and G = E_{n,p} g g^T, from the loops' columns and one sample's gradient at a time."""
    module, x = CASES[name]()
    module, x = module.double(), x.double()
    watched = sorted(
        {s.tensor.rpartition(".")[0] for layer in coupled(name).prunable for s in layer.having(Role.CONSUMER)}
    )
    found = factors(module, watched, [(x[:4], LABELS[:4]), (x[4:], LABELS[4:])], at_the_labels_of_the_data)
    assert sorted(found) == watched
    for consumer in watched:
        owner = module.get_submodule(consumer)
        A, G, positions = 0, 0, 0
        for n in range(len(x)):
            calls, logits = recorded(module, consumer, x[n : n + 1])
            loss = F.cross_entropy(logits, LABELS[n : n + 1])
            for (a, _), g in zip(calls, torch.autograd.grad(loss, [y for _, y in calls]), strict=True):
                a_columns, g_columns = reference.columns(owner, a, ones=True), reference.rows(owner, g)
                A, G = A + a_columns @ a_columns.mT, G + g_columns @ g_columns.mT
                positions += g_columns.shape[-1]
        assert_close(found[consumer].inputs.dense(), A / len(x), **EXACT)
        assert_close(found[consumer].gradients, G / positions, **EXACT)


def test_labels_are_the_models_and_draws_are_averaged():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x = torch.randn(8, 3, dtype=torch.float64)
    wrong = torch.zeros(8, dtype=torch.int64)
    found = factors(net, ["0", "2"], [(x, wrong)], draws=3, seed=4)
    p = net(x).softmax(1).detach()
    G = 0
    for labels in reference.drawn_labels(p.log(), 4, 3):
        g = p - F.one_hot(labels, 3)
        G = G + g.T @ g / len(x) / 3
    assert_close(found["2"].gradients[0], G, **EXACT)
    A = torch.cat([x, torch.ones(8, 1, dtype=x.dtype)], 1)
    assert_close(found["0"].inputs.dense()[0], A.T @ A / len(x), **EXACT)  # not three times it


def test_the_fisher_is_the_second_moment_at_drawn_labels():
    """With one input for all samples, G (x) A is the Fisher of a linear layer at the very labels that were drawn."""
    net = nn.Sequential(nn.Linear(3, 4)).double()
    x = torch.randn(1, 3, dtype=torch.float64).expand(20, 3)
    found = factors(net, ["0"], [(x, LABELS.repeat(4)[:20])], seed=9)["0"]
    truth = with_bias_last(reference.fisher(net, x, reference.drawn_labels(net(x), 9)), 4, 3)
    assert_close(torch.kron(found.gradients[0], found.inputs.dense()[0]), truth, **EXACT)


# --- networks for which G (x) A is the curvature ----------------------------------------------------------------------
# Logits that are uniform for every input, and every input paired with every label once: g depends on the label alone,
# a on the input alone, so their second moments factorise without remainder, and the labels have the model's own
# distribution, so that Fisher = GGN = Hessian.


def crossed(x, classes):
    return x.repeat_interleave(classes, 0), torch.arange(classes).repeat(len(x))


def with_bias_last(matrix, outs, D):
    """Reorder (weight, bias) to rows (w_o, b_o), the order of vec of a weight with the bias as its last column."""
    order = [p for o in range(outs) for p in [*range(o * D, (o + 1) * D), outs * D + o]]
    return matrix[order][:, order]


def softmax_regression():
    net = nn.Sequential(nn.Linear(3, 4)).double()
    nn.init.zeros_(net[0].weight)
    nn.init.zeros_(net[0].bias)
    return net, "0", torch.randn(5, 3, dtype=torch.float64)


def deep_linear():
    """W1 is blind to the two coordinates in which the inputs differ: the logits stay zero, its gradients do not."""
    net = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2), nn.Linear(2, 4)).double()
    with torch.no_grad():
        net[0].weight[:, :2] = 0
        for layer in net:
            layer.bias.zero_()
    x = torch.zeros(6, 5, dtype=torch.float64)
    x[:, :2] = torch.randn(6, 2)
    return net, "0", x


def one_position():
    """A convolution whose kernel covers its input."""
    net = nn.Sequential(nn.Conv2d(2, 3, (2, 3)), nn.Flatten(), nn.Linear(3, 4)).double()
    with torch.no_grad():
        net[0].weight[:, 0] = 0
        net[0].bias.zero_()
        net[2].bias.zero_()
    x = torch.zeros(6, 2, 2, 3, dtype=torch.float64)
    x[:, 0] = torch.randn(6, 2, 3)
    return net, "0", x


@pytest.mark.parametrize("build", [softmax_regression, deep_linear, one_position])
def test_exact_where_theory_says_so(build):
    net, name, inputs = build()
    x, y = crossed(inputs, 4)
    found = factors(net, [name], [(x, y)], at_the_labels_of_the_data)[name]
    owner = net.get_submodule(name)
    outs, D = owner.weight.flatten(1).shape
    own = slice(0, outs * (D + 1))  # the first module's parameters
    product = torch.kron(found.gradients[0], found.inputs.dense()[0])
    assert product.abs().max() > 1e-3
    for truth in (reference.fisher(net, x, y), reference.ggn(net, x), reference.loss_hessian(net, x, y)):
        assert_close(product, with_bias_last(truth[own, own], outs, D), **EXACT)
