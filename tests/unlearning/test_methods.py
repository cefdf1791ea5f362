"""Every method against dense float64 algebra, on a network whose Hessian is indefinite and on logistic regression."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import reference
from infprune.config.unlearn import METHODS as WORDS
from infprune.config.unlearn import SELECTIONS as SELECTED
from infprune.curvature import regularised
from infprune.curvature.algebra import Dense
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.data.dataset import DataRequest
from infprune.data.libsvm import libsvm
from infprune.errors import ConfigError
from infprune.influence.retraining import minimise
from infprune.models import MODELS
from infprune.solvers.contract import Outcome
from infprune.unlearning import METHODS
from infprune.unlearning.contract import Linearised, Solving
from infprune.unlearning.objective import Forgetting, runner_up
from infprune.unlearning.selection import SELECTIONS

EXACT = Solving("lsmr", rtol=1e-13, max_iterations=4000)
SHARE = 0.2


def network():
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2), nn.ConstantPad1d((1, 0), 0.0)]
    net = nn.Sequential(*layers).double().eval()  # the first logit is zero: else the Hessian is singular
    return net, torch.randn(30, 1, 4, 4, dtype=torch.float64), torch.arange(30) % 3


def near(solving=EXACT, *, right=True):
    """The loss of 30 samples, of which six are to be relabelled (or removed), with its dense H, g, K."""
    net, x, y = network()
    space = ParameterSpace.of(net)
    risk = Objective(net, space, [(x[:20], y[:20]), (x[20:], y[20:])])
    learned, other = [(x[:6], y[:6])], [(x[:6], (y[:6] + 1) % 3)]
    q = Forgetting(risk.on(learned), other if right else None)
    T = torch.arange(0, space.size, 3)
    H, K = reference.loss_hessian(net, x, y), reference.loss_hessian(net, x[:6], y[:6])
    loss = F.cross_entropy(net(x[:6]), y[:6])
    if right:
        K -= reference.loss_hessian(net, x[:6], (y[:6] + 1) % 3)
        loss = loss - F.cross_entropy(net(x[:6]), (y[:6] + 1) % 3)
    g = torch.cat([p.flatten() for p in torch.autograd.grad(loss, list(net.parameters()))])
    assert_close(q.hessian(risk.theta).to_dense(), K)
    return Linearised(Dense(H), q.gradient(risk.theta), T, SHARE, solving, Dense(K)), H, g, K, T.tolist()


def test_the_second_choice_is_never_the_label():
    net, x, y = network()
    with torch.no_grad():
        ranked = net(x).argsort(1, descending=True)
    truth = torch.where(ranked[:, 0] == y, ranked[:, 1], ranked[:, 0])
    assert bool((ranked[:, 0] == y).any() and (ranked[:, 0] != y).any())
    assert runner_up(net, [(x[:7], y[:7]), (x[7:], y[7:])]).tolist() == truth.tolist()


def test_with_wanted_labels_the_gradient_is_that_of_logits_and_outlives_a_perfect_fit():
    net, x, y = network()
    net[3].weight.data *= 1e3  # saturated
    with torch.no_grad():
        y = net(x).argmax(1)
    wanted = runner_up(net, [(x, y)])
    risk = Objective(net, ParameterSpace.of(net), [(x, y)])
    z = net(x)
    margin = (z.gather(1, wanted[:, None]) - z.gather(1, y[:, None])).mean()
    truth = torch.cat([p.flatten() for p in torch.autograd.grad(margin, list(net.parameters()))])
    assert_close(Forgetting(risk, [(x, wanted)]).gradient(risk.theta), truth)
    assert Forgetting(risk).gradient(risk.theta).norm() < 0.2 * truth.norm()


def test_the_words_of_the_configuration_are_the_registries():
    assert tuple(METHODS) == WORDS
    assert tuple(SELECTIONS) == SELECTED


@pytest.mark.parametrize("right", [True, False])
def test_every_method_is_the_dense_one(right):
    made, H, g, K, T = near(right=right)
    values = torch.linalg.eigvalsh(H)
    assert float(values[0]) < -1e-3
    assert float(values.abs().min()) > 1e-5
    assert_close(made.g, g)
    first = torch.linalg.solve(H, g)
    truths = {
        "gif": (T, reference.gif(H, g, T)),
        "fif": (T, reference.fif(H, g, T)),
        "pif": (T, reference.pif(H, g, T)),
        "if": (slice(None), first),
        "second-order": (slice(None), first + SHARE * torch.linalg.solve(H, K @ first)),
    }
    assert truths.keys() == METHODS.keys()
    for name, (at, truth) in truths.items():
        found = METHODS[name](made)
        expected = torch.zeros_like(g)
        expected[at] = truth
        assert_close(found.value, expected, rtol=1e-5, atol=1e-6 * float(truth.abs().max()), msg=name)
        assert found.solution.outcome is Outcome.CONVERGED


def test_with_all_parameters_free_all_first_order_methods_are_one():
    made, H, g, _, _ = near()
    whole = Linearised(made.H, made.g, torch.arange(len(g)), SHARE, EXACT, made.K)
    truth = torch.linalg.solve(H, g)
    for name in ("gif", "fif", "pif", "if"):
        assert_close(METHODS[name](whole).value, truth, rtol=1e-4, atol=1e-5 * float(truth.abs().max()))


@pytest.mark.parametrize("solver", ["landweber", "cg", "cholesky", "ldl"])
def test_gif_by_every_solver_with_damping(solver):
    """The Hessian is indefinite; the normal equations are not."""
    made, H, g, _, T = near(Solving(solver, damping=0.05, rtol=1e-10, max_iterations=100_000))
    assert_close(METHODS["gif"](made).value[T], reference.gif(H, g, T, 0.05), rtol=1e-5, atol=1e-7)


def test_what_cannot_be_used_says_what_to_do():
    made = near(Solving("cg"))[0]
    with pytest.raises(ConfigError, match=r"indefinite.*set unlearn.damping"):
        METHODS["fif"](made)
    with pytest.raises(ConfigError, match="gif takes lsmr or landweber"):
        METHODS["gif"](near(Solving("normal-cg"))[0])


def test_stopping_early_is_told():
    found = METHODS["gif"](near(Solving("lsmr", max_iterations=2))[0])
    assert (found.solution.outcome, found.solution.iterations) == (Outcome.STOPPED, 2)


def test_second_order_is_that_of_the_paper_up_to_the_third():
    """Halving the group's share divides the difference by eight, and that of the first order by four."""
    made, H, g, K, _ = near(right=False)
    first, gaps, firsts = torch.linalg.solve(H, g), [], []
    for p in (1e-3, 5e-4):
        ours = METHODS["second-order"](Linearised(made.H, made.g, made.positions, p, EXACT, made.K)).value
        truth = reference.group_influence(H, K, g, p)
        gaps.append(float((p * ours - truth).norm()))
        firsts.append(float((p * first - truth).norm()))
    assert 7 < gaps[0] / gaps[1] < 9
    assert 3.5 < firsts[0] / firsts[1] < 4.5


def test_a_second_order_that_has_no_limit_says_so():
    """K is the larger, the smaller H is beside it; nothing is told where the second term is the shorter one."""
    g = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for size, told in ((4.0, False), (6.0, True)):
        K = Dense(size * torch.eye(2, dtype=torch.float64))
        near = Linearised(Dense(torch.eye(2, dtype=torch.float64)), g, torch.arange(2), SHARE, EXACT, K)
        found = METHODS["second-order"](near)
        assert_close(found.value, (1 + SHARE * size) * g)
        assert ("the second-order term is 1.2 times the first" in found.solution.message) is told


def test_signs_and_factors_on_retrained_logistic_regression():
    """p H^-1 g is where the minimum goes without the group, to first order in p; the second order comes closer."""
    torch.manual_seed(2)
    x, y = torch.randn(200, 4, dtype=torch.float64), torch.randint(2, (200,))
    net = MODELS["logistic_regression"](4).double().eval()
    full = Objective(net, ParameterSpace.of(net), [(x, y)], ridge=0.05)
    theta = minimise(full, full.theta).theta
    full.space.load(net, theta)
    group = Forgetting(full.on([(x[:20], y[:20])]))  # with its ridge: R - p q is the rest's loss, times 1 - p
    kept = minimise(full.on([(x[20:], y[20:])]), theta).theta
    found = {}
    for name in ("if", "second-order"):
        H, K = regularised("hessian", full, theta), regularised("hessian", group.learned, theta)
        made = Linearised(H, group.gradient(theta), torch.arange(5), 0.1, EXACT, K)
        found[name] = float((theta + 0.1 * METHODS[name](made).value - kept).norm() / (theta - kept).norm())
    assert found["if"] < 0.2
    assert found["second-order"] < 0.25 * found["if"]


def shares(x, y, ridge, draws=20, seed=0):
    """Of the gain that 30 % of the parameters could bring, what FIF and GIF bring (ours and dense): means over draws.

    Forgotten are a tenth of the samples, all of class 1.
    """
    net = MODELS["logistic_regression"](x.shape[1], bias=False).double().eval()
    full = Objective(net, ParameterSpace.of(net), [(x, y)], ridge=ridge)
    theta = minimise(full, full.theta).theta
    full.space.load(net, theta)
    generator, P, found = torch.Generator().manual_seed(seed), x.shape[1], []
    H = Dense(regularised("hessian", full, theta).to_dense())
    of_class = y.nonzero()[:, 0]
    for _ in range(draws):
        at = of_class[torch.randperm(len(of_class), generator=generator)[: len(y) // 10]]
        T = torch.randperm(P, generator=generator)[: round(0.3 * P)].sort().values
        g = full.on([(x[at], y[at])]).gradient(theta)
        made = Linearised(H, g, T, 0.1, EXACT)
        dense, free = H.matrix, T.tolist()
        steps = [METHODS["fif"](made).value[T], METHODS["gif"](made).value[T], reference.gif(dense, g, free)]
        found.append([reference.gain_share(dense, g, free, x_T) for x_T in steps])
    return torch.tensor(found).mean(0).tolist()


def test_the_share_of_the_achievable_gain():
    """FIF takes all of it by definition; GIF pays for leaving less gradient in the fixed parameters."""
    torch.manual_seed(0)
    mix = torch.eye(30, dtype=torch.float64) + 0.15 * torch.randn(30, 30, dtype=torch.float64)
    x = torch.randn(300, 30, dtype=torch.float64) @ mix
    y = (x[:, 0] + x[:, 1] + torch.randn(300) > 0).long()
    fif, gif, dense = shares(x, y, 1e-3)
    assert fif == pytest.approx(1.0, abs=1e-6)
    assert gif == pytest.approx(dense, abs=1e-4)
    assert 0.6 < gif < 0.99


@pytest.mark.data
@pytest.mark.skipif("INFPRUNE_DATA" not in os.environ, reason="needs INFPRUNE_DATA/libsvm/splice_scale")
def test_the_share_of_the_achievable_gain_on_splice():
    files = {"train": "libsvm/splice_scale", "test": "libsvm/splice_scale.t"}
    source = libsvm(DataRequest("libsvm", Path(os.environ["INFPRUNE_DATA"]), download=False, args=files))
    fif, gif, dense = shares(source.train.x.double(), source.train.y, 1e-3, draws=40)
    assert fif == pytest.approx(1.0, abs=1e-6)
    assert gif == pytest.approx(dense, abs=1e-4)
    assert gif == pytest.approx(0.88, abs=0.03)


def test_the_dense_operator_is_accepted_too():
    H = torch.diag(torch.tensor([2.0, -1.0, 4.0], dtype=torch.float64))
    made = Linearised(Dense(H), torch.ones(3, dtype=torch.float64), torch.tensor([0, 1]), SHARE, EXACT)
    assert_close(METHODS["gif"](made).value, torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64))
