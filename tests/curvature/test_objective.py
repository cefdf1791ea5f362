"""The loss as a function of theta, and what it refuses to be asked."""

import pytest
import torch
from curved import EXACT, classified, objective, of, tanh_net, whole
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from cases import CASES
from infprune.curvature import CURVATURES
from infprune.curvature.hessian import Hessian
from infprune.curvature.losses import SQUARED_ERROR, AnyLoss
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.errors import ArchitectureError, ConfigError, InputError


@pytest.mark.parametrize("name", CASES)
def test_value_gradient_and_jacobians(name):
    o = objective(name, ridge=0.1)
    (x, y), theta = whole(o), o.theta
    assert torch.equal(theta, torch.cat([p.detach().flatten() for p in o.module.parameters()]))
    parameters = list(o.module.parameters())
    loss = F.cross_entropy(o.module(x), y) + 0.05 * sum(p.square().sum() for p in parameters)
    assert o.value(theta) == pytest.approx(loss.item(), rel=1e-12)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    assert_close(o.gradient(theta), gradient, **EXACT)
    with torch.no_grad():
        assert_close(o.gradient(theta), gradient, **EXACT)
    for J, z in zip(o.jacobians(theta, x[:2]), o.module(x[:2]), strict=True):  # another graph for each sample
        for row, logit in zip(J, z, strict=True):
            truth = torch.autograd.grad(logit, parameters, retain_graph=True, allow_unused=True)
            assert_close(row, torch.cat([g.flatten() for g in truth]), **EXACT)
    assert o.samples() == len(y)
    assert [p.grad for p in parameters] == [None] * len(parameters)


@pytest.mark.parametrize("name", CASES)
def test_slopes_are_each_samples_gradient_times_the_directions(name):
    o = objective(name, ridge=0.1)
    theta = o.theta
    V = torch.randn(len(theta), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alone = [o.on([(x[n : n + 1], y[n : n + 1])]) for x, y in o.batches for n in range(len(y))]
    G = torch.stack([a.gradient(theta) - 0.1 * theta for a in alone])
    assert_close(o.slopes(theta, V), G @ V, **EXACT)
    assert o.on([]).slopes(theta, V).shape == (0, 3)


def test_slopes_of_parameters_that_the_outputs_do_not_use_are_zero():
    net = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(2, 2)}).double()
    net.forward = net["used"].forward
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    o = of(net, x, y, names=["unused.weight"])
    assert torch.equal(o.slopes(o.theta, torch.ones(4, 2, dtype=torch.float64)), torch.zeros(4, 2, dtype=torch.float64))


def test_other_points_leave_the_network_alone():
    net, (x, y) = tanh_net(), classified()
    o = of(net, x, y)
    before, other = o.theta, o.theta + 0.5
    at = of(net, x, y).value(other), of(net, x, y).gradient(other)
    assert torch.equal(o.theta, before)
    o.space.load(net, other)
    assert at[0] == pytest.approx(F.cross_entropy(net(x), y).item(), rel=1e-12)
    assert_close(at[1], o.gradient(other), **EXACT)


def test_other_parameters_are_constant():
    net, (x, y) = tanh_net(), classified()
    everything, some = of(net, x, y), of(net, x, y, names=["0.bias", "2.weight"])
    at = torch.cat([everything.space.at("0.bias"), everything.space.at("2.weight")])
    assert_close(some.gradient(some.theta), everything.gradient(everything.theta)[at], **EXACT)
    assert some.value(some.theta) == everything.value(everything.theta)


def test_each_batch_is_an_objective():
    net, (x, y) = tanh_net(), classified()
    o = of(net, x, y, split=4, ridge=0.2)
    assert [single.samples() for single in o.single()] == [4, 7]
    means = [single.value(o.theta) for single in o.single()]
    assert (4 * means[0] + 7 * means[1]) / 11 == pytest.approx(o.value(o.theta), rel=1e-12)
    assert o.on([(x[:3], y[:3])]).samples() == 3


class Pair(nn.Module):
    """Two inputs, logits in a mapping."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(5, 3), nn.Linear(2, 3)

    def forward(self, a, b):
        return {"logits": torch.tanh(self.left(a)) + self.right(b)}


def test_several_inputs():
    net, (x, y) = Pair().double().eval(), classified()
    other = torch.randn(len(x), 2, dtype=torch.float64)
    parts = [((x[s], other[s]), y[s]) for s in (slice(4), slice(4, None))]
    o = Objective(net, ParameterSpace.of(net), parts)
    H = torch.autograd.functional.hessian(lambda t: F.cross_entropy(o.outputs(t, (x, other)), y), o.theta)
    made = Hessian(o)
    assert_close(made.to_dense(), H, **EXACT)
    ggn = CURVATURES["ggn"](o)
    V = torch.randn(len(H), 2, dtype=torch.float64)
    assert_close(ggn.matmat(V), ggn.to_dense() @ V, **EXACT)
    assert_close(CURVATURES["ggn"](o, None, 1).matmat(V), ggn.to_dense() @ V, **EXACT)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.BatchNorm1d(5), nn.Dropout(0.5)])
def test_train_mode_is_refused(kind):
    net = nn.Sequential(nn.Linear(5, 5), kind, nn.Linear(5, 3)).double()
    x, y = classified()
    with pytest.raises(ArchitectureError, match=r"^1: .*train mode.*call module.eval\(\)$"):
        of(net.train(), x, y)
    assert of(net.eval(), x, y).value(of(net, x, y).theta) > 0


def test_what_does_not_drop_may_stay_in_train_mode():
    x, y = classified()
    plain, dropping = tanh_net(), nn.Sequential(tanh_net(), nn.Dropout(0.0))
    dropping[0].load_state_dict(plain.state_dict())
    a, b = of(plain.train(), x, y), of(dropping.train(), x, y)
    assert a.value(a.theta) == b.value(b.theta)


def test_batch_norm_without_statistics():
    net = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)).double()
    with pytest.raises(ArchitectureError, match=r"^1: batch norm without running statistics"):
        of(net.eval(), *classified())


def test_batches_that_can_be_visited_once():
    net, (x, y) = tanh_net(), classified()
    with pytest.raises(ConfigError, match="visited again, got an iterator"):
        of(net, x, y).on(iter([(x, y)]))


def test_a_loss_that_is_not_differentiable():
    net, (x, y) = tanh_net(), classified()
    wrong = of(net, x, y, loss=AnyLoss(lambda z, t: (z.argmax(1) != t).double()))
    for make in (Hessian, CURVATURES["ggn"], CURVATURES["empirical-fisher"]):
        with pytest.raises(ConfigError, match="not differentiable"):
            make(wrong)
    with pytest.raises(ConfigError, match="not differentiable"):
        wrong.gradient(wrong.theta)


def test_a_loss_of_another_shape():
    net, (x, y) = tanh_net(), classified()
    for make in (Hessian, CURVATURES["ggn"], CURVATURES["empirical-fisher"]):
        with pytest.raises(ConfigError, match=r"one value per sample \(\d,\), got shape \(\)"):
            make(of(net, x, y, loss=AnyLoss(F.cross_entropy)))


def test_targets_of_another_shape():
    """(N, 1) against (N,) would broadcast to all pairs."""
    net = nn.Linear(5, 1).double().eval()
    x, y = torch.randn(11, 5, dtype=torch.float64), torch.randn(11, dtype=torch.float64)
    o = of(net, x, y, loss=SQUARED_ERROR)
    with pytest.raises(InputError, match=r"targets like the outputs, \(4, 1\), got \(4,\)"):
        o.value(o.theta)
    right = of(net, x, y[:, None], loss=SQUARED_ERROR)
    assert right.value(o.theta) == pytest.approx(0.5 * (net(x)[:, 0] - y).square().mean().item(), rel=1e-12)


@pytest.mark.parametrize("curvature", CURVATURES)
def test_nan_in_the_weights(curvature):
    net, (x, y) = tanh_net(), classified()
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        CURVATURES[curvature](of(net, x, y))


@pytest.mark.parametrize("curvature", CURVATURES)
def test_no_samples(curvature):
    o = of(tanh_net(), *classified()).on([])
    with pytest.raises(InputError, match="at least one sample"):
        CURVATURES[curvature](o)


def test_no_samples_have_no_value():
    o = of(tanh_net(), *classified()).on([])
    for work in (o.value, o.gradient):
        with pytest.raises(InputError, match="at least one sample"):
            work(o.theta)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * x.exp()


class Twice(torch.autograd.Function):
    """In the old style, which torch.func cannot map."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * x.exp()


class Between(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.first, self.last, self._operation = nn.Linear(5, 4), nn.Linear(4, 3), operation

    def forward(self, x):
        return self.last(self._operation(self.first(x)))


@pytest.mark.parametrize("curvature", ["hessian", "ggn", "fisher", "empirical-fisher"])
def test_an_operation_that_has_no_second_derivative(curvature):
    with pytest.raises(ArchitectureError, match="cannot be differentiated twice") as caught:
        CURVATURES[curvature](of(Between(Once.apply).double().eval(), *classified()))
    assert "\n" not in str(caught.value)
    assert float(CURVATURES["kfac"](of(Between(Once.apply).double().eval(), *classified())).diagonal().max()) > 0


def branching(x):
    return x.exp() if float(x.detach().max()) < 1e9 else x


@pytest.mark.parametrize("operation", [Twice.apply, branching], ids=["old style", "branching"])
def test_operations_that_cannot_be_mapped_over_samples(operation):
    """The dense matrix then comes from products."""
    net, (x, y) = Between(operation).double().eval(), classified()
    plain = Between(torch.exp).double().eval()
    plain.load_state_dict(net.state_dict())
    assert_close(CURVATURES["ggn"](of(net, x, y)).to_dense(), CURVATURES["ggn"](of(plain, x, y)).to_dense(), **EXACT)


def test_attention_without_a_second_derivative():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.head = nn.Linear(3, 12), nn.Linear(4, 3)

        def forward(self, x):
            q, k, v = self.mix(x).chunk(3, -1)
            return self.head(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0].mean(1))

    x, y = torch.randn(4, 5, 3, dtype=torch.float64), torch.arange(4) % 3
    made, expected = CURVATURES["ggn"], r"cannot be differentiated twice.*MATH backend.*kfac"
    o = of(Attending().double().eval(), x, y, split=2)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        found = made(o)
        V = torch.randn(found.shape[0], 2, dtype=torch.float64)
        assert_close(found.matmat(V), found.to_dense() @ V, **EXACT)
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION),
        pytest.raises(ArchitectureError, match=expected),
    ):
        made(o).matvec(V[:, 0])


def test_outputs_that_are_no_tensor():
    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, _):
            return {}

    o = of(Nothing().eval(), *classified())
    with pytest.raises(ArchitectureError, match="expected a tensor of outputs, got dict"):
        o.value(o.theta)
