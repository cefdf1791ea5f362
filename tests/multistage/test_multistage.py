"""Influence through two stages, against both stages solved anew."""

from dataclasses import dataclass, replace
from functools import cache, partial

import pytest
import torch
from torch import nn
from torch.func import functional_call

import reference
from infprune.curvature.losses import CROSS_ENTROPY, SQUARED_ERROR
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.errors import ConfigError
from infprune.multistage.influence import identity, solving, swept, through_finetuning
from infprune.multistage.sharing import sharing
from infprune.solvers import LDL, LSMR, ConjugateGradients, NormalCG

ALPHA = 0.3
RIDGE = 0.05
HOLDS = {"case 1": ["a", "b"], "case 2": [], "between": ["a"]}
EXACT = (solving(LDL()), solving(LDL()))


class Additive(nn.Module):
    """Linear in everything: x W + x V by two shared layers, and a layer of the stage's own."""

    def __init__(self, own):
        super().__init__()
        self.a, self.b, self.own = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(own, 2)

    def forward(self, x):
        return self.a(x[:, :2]) + self.b(x[:, 2:4]) + self.own(x[:, 4:])


class Tanh(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.a, self.b, self.own = nn.Linear(3, 3), nn.Linear(3, 2), nn.Linear(2, classes)

    def forward(self, x):
        return self.own(torch.tanh(self.b(torch.tanh(self.a(x)))))


@dataclass(frozen=True)
class Two:
    """Two objectives at their minima, the test's, and the truth as a function of a sample's weight."""

    pretrain: Objective
    finetune: Objective
    test: Objective
    parts: object
    truth: object

    def influence(self, ways=EXACT, alpha=ALPHA):
        slopes = self.test.gradient(self.finetune.theta)[:, None]
        found = swept(self.pretrain, self.finetune, slopes, self.parts, alpha, ways)
        return self.pretrain.slopes(self.pretrain.theta, found.direction)[:, 0]


@cache
def problem(kind, hold, alpha=ALPHA):
    torch.manual_seed(3)
    if kind == "linear":
        modules = [Additive(1).double(), Additive(3).double()]
        data = [(torch.randn(n, 4 + k).double(), torch.randn(n, 2).double()) for n, k in ((12, 1), (9, 3), (4, 3))]
        loss, ridge = SQUARED_ERROR, 0.0
    else:
        modules = [Tanh(3).double(), Tanh(2).double()]
        data = [(torch.randn(n, 3).double(), torch.arange(n) % k) for n, k in ((12, 3), (9, 2), (4, 2))]
        loss, ridge = CROSS_ENTROPY, RIDGE
    spaces, steps = [ParameterSpace.of(m) for m in modules], 200 if kind == "tanh" else 0
    sized = [(x.split(5), y.split(5)) for x, y in data]
    batches = [list(zip(*s, strict=True)) for s in sized]
    own = [n for n in spaces[1].names if n.startswith("own")]
    held = [n for n in spaces[1].names if n.partition(".")[0] in HOLDS[hold]]
    parts = sharing(*spaces, own, held)

    def risk(stage, theta, ridge=0.0, keep=slice(None)):
        x, y = data[stage]
        space, module = spaces[min(stage, 1)], modules[min(stage, 1)]
        each = loss(functional_call(module, space.split(theta), (x[keep],)), y[keep])
        return each.mean() + 0.5 * ridge * theta.square().sum()

    def G(z, theta, eps):
        return risk(0, theta, ridge) + eps * risk(0, theta, keep=slice(z, z + 1))

    def F(theta):
        loose = torch.ones(len(theta), dtype=torch.float64)
        loose[parts.there(parts.held)] = 0
        return risk(1, theta) + 0.5 * ridge * (loose * theta.square()).sum()

    starts = [space.values(m) for space, m in zip(spaces, modules, strict=True)]
    first = minimum(lambda t: risk(0, t, ridge), starts[0], steps)
    W = dict(spaces[0].split(first)) | {n: spaces[1].split(starts[1])[n] for n in own}
    case = (parts.there(parts.shared), parts.there(parts.held), alpha)
    second = settled(F, spaces[1].join(W), case, steps)
    for space, module, theta in zip(spaces, modules, (first, second), strict=True):
        space.load(module, theta)
    assert torch.equal(parts.origin(), torch.arange(len(parts.origin())))  # as `two_stages` wants it
    truth = lambda z: partial(  # noqa: E731
        reference.two_stages, partial(G, z), F, lambda t: risk(2, t), (first, second), case
    )
    of = [Objective(modules[min(i, 1)], spaces[min(i, 1)], b, loss, r) for i, (b, r) in enumerate(zip(batches, (ridge, ridge, 0.0), strict=True))]  # fmt: skip  # noqa: E501
    return Two(*of, parts, truth)


def minimum(risk, start, steps):
    """A network's: Newton alone starts too far away."""
    t = start.clone().requires_grad_()
    for _ in range(steps):
        t = (t - 0.5 * torch.autograd.grad(risk(t), t)[0]).detach().requires_grad_()
    return reference.newton(risk, t.detach(), 8)


def settled(F, W, case, steps):
    shared, held, alpha = case
    free = torch.ones(len(W), dtype=torch.bool).index_put((held,), torch.tensor(False))
    tied = torch.zeros(len(W)).double().index_put((shared,), torch.tensor(1.0).double())
    put = lambda t: W.index_put((free,), t)  # noqa: E731
    return put(minimum(lambda t: F(put(t)) + alpha * (tied * (put(t) - W).square()).sum(), W[free], steps))


@pytest.mark.parametrize("hold", HOLDS)
def test_linear_stages_exactly(hold):
    """Quadratic risks: Newton's step is the minimum, and its derivative in the weight is the influence."""
    two = problem("linear", hold)
    truth = torch.stack([torch.func.grad(two.truth(z))(torch.tensor(0.0).double()) for z in range(12)])
    torch.testing.assert_close(two.influence(), truth, rtol=1e-9, atol=1e-11)
    assert truth.abs().min() > 1e-6


@pytest.mark.parametrize("hold", HOLDS)
def test_removing_a_sample_is_a_weight_of_minus_one_over_m(hold):
    """m is the number of *pretraining* samples; MS prints 1/n, with n that of fine-tuning."""
    two = problem("linear", hold)
    x, y = (torch.cat(t) for t in zip(*two.pretrain.batches, strict=True))
    for z in (0, 7):
        keep = torch.arange(12) != z
        less = two.pretrain.on([(x[keep], y[keep])])

        def mean(theta, _, less=less):
            (x, y), = less.batches  # fmt: skip
            return less.loss(functional_call(less.module, less.space.split(theta), (x,)), y).mean()

        f = two.truth(z)
        without = reference.two_stages(mean, *f.args[1:], 0.0)
        torch.testing.assert_close(f(-1 / 12), without, rtol=1e-10, atol=1e-12)
        change = [f(-w / 12) - f(0.0) for w in (1e-2, 1e-3)]
        predicted = -two.influence()[z] / 12
        gaps = [abs(c / w - predicted) for c, w in zip(change, (1e-2, 1e-3), strict=True)]
        assert gaps[0] < 0.05 * abs(predicted)
        assert gaps[1] < 0.11 * gaps[0]  # second order
        assert torch.sign(without - f(0.0)) == torch.sign(predicted)


@pytest.mark.parametrize("hold", HOLDS)
def test_a_network_by_finite_differences(hold):
    two = problem("tanh", hold)
    free = two.parts.there(two.parts.free)
    assert two.pretrain.gradient(two.pretrain.theta).norm() < 1e-10
    if hold == "case 1":
        assert two.finetune.gradient(two.finetune.theta)[free].norm() < 1e-10
    influence, step = two.influence(), 1e-4
    for z in range(0, 12, 3):
        f = two.truth(z)
        difference = (f(step) - f(-step)) / (2 * step)
        torch.testing.assert_close(influence[z], difference, rtol=1e-6, atol=1e-9)
        assert influence[z].abs() > 1e-5


def dense(two):
    H = reference_hessian(two.pretrain)
    F = reference_hessian(two.finetune)
    x, y = (torch.cat(t) for t in zip(*two.pretrain.batches, strict=True))
    g = torch.stack([two.pretrain.on([(x[i : i + 1], y[i : i + 1])]).gradient(two.pretrain.theta) for i in range(12)])
    g = g - two.pretrain.ridge * two.pretrain.theta
    f = two.test.gradient(two.finetune.theta)
    W = two.parts.there(two.parts.shared)
    own = torch.tensor([i for i in range(len(f)) if i not in set(W.tolist())])
    return H, F, f, g, W, own


def reference_hessian(o):
    x, y = (torch.cat(t) for t in zip(*o.batches, strict=True))
    risk = lambda t: o.loss(functional_call(o.module, o.space.split(t), (x,)), y).mean()  # noqa: E731
    return torch.func.jacrev(torch.func.jacrev(risk))(o.theta) + o.ridge * torch.eye(len(o.theta)).double()


@pytest.mark.parametrize("kind", ["linear", "tanh"])
def test_algorithm_1_as_printed_is_right_and_equation_11_has_the_sign_reversed(kind):
    two = problem(kind, "case 1")
    H, F, f, g, W, own = dense(two)
    printed = (H, F[own][:, own], F[own][:, W], f[own], f[W], g)
    torch.testing.assert_close(two.influence(), reference.algorithm_1(*printed), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(two.influence(), -reference.equation_11(*printed), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["linear", "tanh"])
def test_equation_14_as_printed(kind):
    two = problem(kind, "case 2")
    H, F, f, g, W, own = dense(two)
    order = torch.cat([own, W])
    printed = reference.equation_14(H, F[order][:, order], f[own], f[W], ALPHA, g)
    if kind == "tanh":  # the ridge is on every parameter that moves
        assert two.finetune.ridge == RIDGE
    torch.testing.assert_close(two.influence(), printed, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("solver", [NormalCG(0.0, 1e-12), LSMR(1e-12), ConjugateGradients(1e-12)])
def test_solvers_agree(hold, solver):
    """A ridge and alpha make both curvatures positive here, and the network's are that at its minima."""
    two = problem("linear", hold)
    torch.testing.assert_close(two.influence((solving(solver), solving(solver))), two.influence(), rtol=1e-5, atol=1e-8)


def test_damping_of_the_printed_solver_is_on_the_square():
    two, damping = problem("tanh", "case 1"), 1e-2
    H, F, f, g, W, own = dense(two)
    inverse = lambda A, d: torch.linalg.solve(A @ A + d * torch.eye(len(A)).double(), A)  # noqa: E731
    q = f[W] - F[W][:, own] @ inverse(F[own][:, own], 1e-8) @ f[own]
    rhs = torch.cat([q, torch.zeros(len(H) - len(W)).double()])
    truth = -g @ inverse(H, damping) @ rhs
    ways = (solving(NormalCG(damping, 1e-12)), solving(NormalCG(1e-8, 1e-12)))
    torch.testing.assert_close(two.influence(ways), truth, rtol=1e-6, atol=1e-9)
    plain = solving(LDL(), damping)
    assert not torch.allclose(two.influence((plain, plain)), truth, rtol=1e-2)


@pytest.mark.parametrize("hold", HOLDS)
def test_identity_control(hold):
    two = problem("tanh", hold)
    _, F, f, g, W, _ = dense(two)
    held, moved = two.parts.there(two.parts.held), two.parts.there(two.parts.moved)
    free = two.parts.there(two.parts.free)
    q = torch.zeros_like(f)
    q[held] = f[held] - F[held][:, free] @ f[free]
    q[moved] = 2 * ALPHA * f[moved]
    truth = -g[:, : len(W)] @ q[W]
    torch.testing.assert_close(two.influence((identity, identity)), truth, rtol=1e-9, atol=1e-12)


def test_several_predictions_go_back_together_and_add_up():
    """Eq. 9."""
    two = problem("tanh", "case 1")
    singles = [o.gradient(two.finetune.theta) for o in two.test.on([
        (x[i : i + 1], y[i : i + 1]) for x, y in two.test.batches for i in range(len(y))
    ]).single()]  # fmt: skip
    slopes = torch.stack([*singles, torch.stack(singles).sum(0)], 1)
    found = swept(two.pretrain, two.finetune, slopes, two.parts, ALPHA, EXACT)
    each = two.pretrain.slopes(two.pretrain.theta, found.direction)
    assert each.shape == (12, 5)
    torch.testing.assert_close(each[:, :4].sum(1), each[:, 4], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(each[:, 4] / 4, two.influence(), rtol=1e-9, atol=1e-12)


def test_a_larger_alpha_holds_the_embedding():
    """Case 2 with everything tied becomes case 1, in the limit."""
    held = problem("linear", "case 1").influence()
    near = problem("linear", "case 2", alpha=1e5).influence(alpha=1e5)
    torch.testing.assert_close(near, held, rtol=1e-3, atol=1e-6)


def test_what_fine_tuning_forgets_has_no_influence():
    loose = problem("linear", "case 2", alpha=1e-6).influence(alpha=1e-6)
    assert loose.abs().max() < 1e-3 * problem("linear", "case 1").influence().abs().max()


def test_the_sweep_costs_two_solves_whatever_the_number_of_samples():
    two = problem("tanh", "case 1")
    calls = []

    def counted(operator, rhs):
        calls.append(rhs.shape)
        return solving(LDL())(operator, rhs)

    many = replace(two, pretrain=two.pretrain.on(list(two.pretrain.batches) * 5))
    assert len(many.influence((counted, counted))) == 60
    own, all_of_it = sum(n for name, n in zip(two.parts.finetune.names, two.parts.finetune.sizes, strict=True) if name in two.parts.free), two.parts.pretrain.size  # fmt: skip  # noqa: E501
    assert calls == [(own, 1), (all_of_it, 1)]


def test_stages_that_have_nothing_in_common():
    first, second = ParameterSpace.of(Tanh(3)), ParameterSpace.of(Tanh(2))
    every = second.names
    with pytest.raises(ConfigError, match=r"share no parameter.*trace\.head"):
        sharing(first, second, every, ())
    with pytest.raises(ConfigError, match=r"nothing to train.*trace\.frozen"):
        sharing(first, second, ["own.weight", "own.bias"], every)
    with pytest.raises(ConfigError, match=r"own\.weight is new in the second stage and cannot be frozen"):
        sharing(first, second, ["own.weight", "own.bias"], ["own.weight"])
    with pytest.raises(ConfigError, match=r"own\.weight is \(3, 2\) in one stage and \(2, 2\) in the other"):
        sharing(first, second, (), ())


def test_the_total_derivative_in_the_embedding():
    """`through_finetuning` alone: the test loss as a function of the W that fine-tuning begins with."""
    two = problem("linear", "case 1")
    q, found = through_finetuning(
        two.finetune, two.test.gradient(two.finetune.theta)[:, None], two.parts, 0.0, EXACT[1]
    )
    _, F, f, _, W, own = dense(two)
    torch.testing.assert_close(q[:, 0], f[W] - F[W][:, own] @ torch.linalg.solve(F[own][:, own], f[own]))
    assert found.converged
