import copy
from types import MappingProxyType

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import reference
from cases import CASES, LABELS, coupled
from infprune.compensation import least_squares, recalibrate
from infprune.coupling.couple import couple
from infprune.surgery import cut, kept_positions

# What must be refitted, in the order of the forward pass, and the norm behind a convolution without bias.
ORDER = {
    "mlp": {"2": None, "4": None},
    "plain": {"2": None, "6": None, "8": None},
    "strided": {"2": None, "5": None},
    "dilated": {"2": None, "6": None},
    "grouped": {"2": None, "4": None, "8": None},
    "conv1d": {"3": None, "7": None},
    "sequence": {"mix": None, "head": None},
    "bias-free": {"3": "4", "8": None},
    "separable": {"6": None, "10": None},  # what the depthwise filter reads has only become less
    "concat": {"conv1": None, "conv2": None, "head": None},
    "residual": {"conv1": "bn1", "conv2": "bn2", "shortcut": "shortcut_bn", "conv3": None, "conv4": None, "head": None},
    "reused": {"shared": None, "head": None},
}


# Weights whose output is a term of a sum, and the other term: what a module writes or reads.
SUMS = {"residual": {"shortcut": ("bn2", 1), "conv4": ("conv3", 0)}}
ENDS = {"conv4": "bn4"}


def pruned(name, *, samples=96):
    """Dense and cut network, coupling, kept positions, and inputs enough to determine every weight."""
    dense, x = CASES[name]()
    dense, coupling = dense.double(), coupled(name)
    masks = {layer.name: torch.arange(layer.size) % 3 != 1 for layer in coupling.prunable}
    kept = kept_positions(coupling, masks)
    x = torch.randn(samples, *x.shape[1:], dtype=torch.float64)
    return dense, cut(dense, coupling, masks), coupling, kept, x


def batches(x, size=None):
    return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in x.split(size or len(x))]


def calls(network, name, x):
    """Inputs and outputs of all calls of a module."""
    found = []
    hook = network.get_submodule(name).register_forward_hook(lambda _, a, y: found.append((a[0].clone(), y.clone())))
    with torch.no_grad():
        network(x)
    hook.remove()
    return found


def problem(dense, small, name, kept, x):
    """X of the small network with a row of ones, Y of the dense one in the rows that stay."""
    owner = small.get_submodule(name)
    rows = kept.get(f"{name}.weight", {}).get(0, torch.arange(len(dense.get_submodule(name).weight)))
    dim = -1 if isinstance(owner, nn.Linear) else 1
    X = [reference.columns(owner, a, ones=True) for a, _ in calls(small, name, x)]
    Y = [reference.rows(owner, y.index_select(dim, rows)) for _, y in calls(dense, name, x)]
    return torch.cat(X, dim=2), torch.cat(Y, dim=2)


def before_norm(norm, wanted):
    """What a batch norm maps to `wanted`."""
    shape = (1, -1, 1, 1)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (wanted - norm.bias.reshape(shape)) / scale.reshape(shape) + norm.running_mean.reshape(shape)


def sum_problem(dense, small, name, end, other, kept, x):
    """X of the small network; Y that makes the sum, past the norm `end`, that of the dense one."""
    X, _ = problem(dense, small, name, kept, x)
    rows = kept.get(f"{name}.weight", {}).get(0, torch.arange(len(dense.get_submodule(name).weight)))
    source, side = other
    [(_, term)], [theirs], [ours] = calls(dense, end, x), calls(dense, source, x), calls(small, source, x)
    wanted = (term + theirs[side]).index_select(1, rows) - ours[side]
    return X, reference.rows(small.get_submodule(name), before_norm(small.get_submodule(end), wanted))


def with_bias(owner, X):
    """The weight as `(G, O / G, D)`, its bias (or 0) as the last column."""
    weight = owner.weight.detach().reshape(len(X), -1, X.shape[1] - 1)
    bias = torch.zeros(len(owner.weight), dtype=X.dtype) if owner.bias is None else owner.bias.detach()
    return torch.cat([weight, bias.reshape(len(X), -1, 1)], dim=2)


@torch.no_grad()
def refit_by_hand(dense, small, order, kept, x, sums=MappingProxyType({})):
    for name, norm in order.items():
        if name in sums:
            X, Y = sum_problem(dense, small, name, norm or ENDS[name], sums[name], kept, x)
        else:
            X, Y = problem(dense, small, name, kept, x)
        owner = small.get_submodule(name)
        V = reference.least_squares(X, Y, near=with_bias(owner, X)).flatten(0, 1)
        owner.weight.copy_(V[:, :-1].reshape(owner.weight.shape))
        if norm is None:
            owner.bias.copy_(V[:, -1])
        else:
            small.get_submodule(norm).running_mean.sub_(V[:, -1])


# --- least squares ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORDER)
def test_refits_are_those_of_lstsq(name, device):
    """In graph order, each weight fitted to the network that is pruned and refitted so far."""
    dense, small, coupling, kept, x = pruned(name)
    by_hand, before = copy.deepcopy(small), copy.deepcopy(small)
    refit_by_hand(dense, by_hand, ORDER[name], kept, x, SUMS.get(name, {}))
    fits = least_squares(dense.to(device), small.to(device), coupling, kept, batches(x.to(device)), damping=0)
    small = small.cpu()
    assert [fit.module for fit in fits] == list(ORDER[name])
    for key, norm in ORDER[name].items():
        [(_, found), *_], [(_, truth), *_] = (calls(network, norm or key, x) for network in (small, by_hand))
        exact = 1e-4 if name == "residual" else 1e-6  # nearly dependent columns in conv3: the least ridge is felt
        assert_close(found, truth, rtol=exact, atol=exact * float(truth.abs().max()))
        owner, old = small.get_submodule(key), before.get_submodule(key)
        assert (owner.weight - old.weight).abs().max() > 1e-2
    loose = 1e-2 if name == "residual" else 1e-5
    assert_close(small.state_dict(), by_hand.state_dict(), rtol=loose, atol=loose)


def test_the_last_weight_before_a_sum_corrects_the_other_term():
    """The sum comes nearer to that of the dense network than with a term that minds only its own error."""
    dense, small, coupling, kept, x = pruned("residual")
    plain = copy.deepcopy(small)
    refit_by_hand(dense, plain, ORDER["residual"], kept, x)
    least_squares(dense, small, coupling, kept, batches(x), damping=0)
    rows = kept.get("conv4.weight", {}).get(0, torch.arange(7))

    def error(network):
        sums = [calls(n, "bn4", x)[0][1] + calls(n, "conv3", x)[0][0] for n in (network, dense)]
        return (sums[0] - sums[1].index_select(1, rows)).square().mean()

    assert error(small) < 0.95 * error(plain)


def test_the_second_weight_is_fitted_to_the_refitted_first():
    dense, small, coupling, kept, x = pruned("plain")
    from_the_cut = reference.least_squares(*problem(dense, small, "6", kept, x))[0, :, :-1]
    least_squares(dense, small, coupling, kept, batches(x), damping=0)
    from_the_refitted = reference.least_squares(*problem(dense, small, "6", kept, x))[0, :, :-1]
    assert_close(small[6].weight.detach(), from_the_refitted, rtol=1e-6, atol=1e-6)
    assert (small[6].weight - from_the_cut).abs().max() > 0.01


def test_depthwise_filters_adapt_to_inputs_that_have_changed():
    """The second of two separable blocks: its filters read what the refitted first block puts out."""
    dense = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 5, 1),
        nn.ReLU(),
        nn.Conv2d(5, 5, 3, padding=1, groups=5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 16, 3),
    )
    dense = dense.double().eval()
    x = torch.randn(96, 2, 4, 4, dtype=torch.float64)
    coupling = couple(dense, x[:4])
    masks = {"0": torch.arange(8) % 3 > 0, "2": torch.arange(5) != 3}
    small, kept = cut(dense, coupling, masks), kept_positions(coupling, masks)
    by_hand = copy.deepcopy(small)
    refit_by_hand(dense, by_hand, {"2": None, "4": None, "7": None}, kept, x)
    fits = least_squares(dense, small, coupling, kept, batches(x), damping=0)
    assert [fit.module for fit in fits] == ["2", "4", "7"]
    assert fits[1].after < fits[1].before
    for name in ("4", "7"):  # inputs that are nearly always zero leave some weights open, the outputs not
        assert_close(calls(small, name, x)[0][1], calls(by_hand, name, x)[0][1], rtol=1e-3, atol=1e-3)


def test_the_norm_carries_the_intercept():
    """Norm(W' x) with the shifted mean is the norm of the fit with an intercept."""
    dense, small, coupling, kept, x = pruned("bias-free")
    before = copy.deepcopy(small)
    least_squares(dense, small, coupling, kept, batches(x), damping=0)
    X, Y = problem(dense, before, "3", kept, x)
    fitted = (reference.least_squares(X, Y) @ X)[0]
    scale, shift = (before[4].weight / (before[4].running_var + before[4].eps).sqrt()).detach(), before[4].bias.detach()
    truth = scale[:, None] * (fitted - before[4].running_mean[:, None]) + shift[:, None]
    [(_, found)] = calls(small, "4", x)
    assert_close(reference.rows(small[3], found)[0], truth, rtol=1e-6, atol=1e-6)
    assert (small[4].running_mean - before[4].running_mean).abs().max() > 0.01
    for key in ("weight", "bias", "running_var"):
        assert torch.equal(getattr(small[4], key), getattr(before[4], key))


@pytest.mark.parametrize("name", [name for name in CASES if name != "tied"])
def test_residuals_fall_and_are_shares_of_the_energy(name):
    dense, small, coupling, kept, x = pruned(name)
    before = copy.deepcopy(small)
    fits = least_squares(dense, small, coupling, kept, batches(x))
    for fit in fits:
        assert 0 <= fit.after <= fit.before
    assert any(fit.after < 0.9 * fit.before for fit in fits)
    first = fits[0]
    X, Y = problem(dense, before, first.module, kept, x)
    old = with_bias(before.get_submodule(first.module), X)
    assert first.before == pytest.approx(float((Y - old @ X).square().sum() / Y.square().sum()), rel=1e-9)
    new = reference.least_squares(
        X, Y, near=old, ridge=float(first.damping * (X @ X.mT).diagonal(dim1=1, dim2=2).mean())
    )
    if len(X) == 1:
        assert first.after == pytest.approx(float((Y - new @ X).square().sum() / Y.square().sum()), rel=1e-9)


def ridge_of(damping, X):
    return float(damping * (X @ X.mT).diagonal(dim1=1, dim2=2).mean())


@pytest.mark.parametrize("damping", [1e-4, 0.1])
def test_damping_is_a_ridge_towards_the_weight_as_it_was_cut(damping):
    dense, small, coupling, kept, x = pruned("mlp")
    X, Y = problem(dense, small, "2", kept, x)
    truth = reference.least_squares(X, Y, near=with_bias(small[2], X), ridge=ridge_of(damping, X))
    fits = least_squares(dense, small, coupling, kept, batches(x, 20), damping=damping)
    assert_close(with_bias(small[2], X), truth, rtol=1e-8, atol=1e-10)
    assert [fit.damping for fit in fits] == [damping, damping]


def test_damping_is_chosen_on_held_out_batches():
    """Three folds of batches in turn; the ridge with the smallest error on what it has not seen, for each weight."""
    dense, small, coupling, kept, x = pruned("plain", samples=25)
    before = copy.deepcopy(small)
    chosen = least_squares(dense, small, coupling, kept, batches(x, 5))[0].damping
    parts = [problem(dense, before, "2", kept, part) for part in x.split(5)]
    errors = {}
    for damping in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        errors[damping] = 0.0
        for fold in range(3):
            seen = [part for i, part in enumerate(parts) if i % 3 != fold]
            X, Y = (torch.cat(sides, dim=2) for sides in zip(*seen, strict=True))
            V = reference.least_squares(X, Y, near=with_bias(before[2], X), ridge=ridge_of(damping, X))
            errors[damping] += sum(float((Y - V @ X).square().sum()) for i, (X, Y) in enumerate(parts) if i % 3 == fold)
    assert chosen == min(errors, key=errors.__getitem__)
    assert sorted(errors.values())[1] > 1.0001 * errors[chosen]
    assert chosen not in (1e-6, 1.0)


def test_a_single_batch_leaves_nothing_to_hold_out():
    dense, small, coupling, kept, x = pruned("mlp")
    assert {fit.damping for fit in least_squares(dense, small, coupling, kept, batches(x))} == {1e-3}


@pytest.mark.parametrize("name", ["plain", "residual", "reused", "sequence"])
def test_batches_do_not_matter(name):
    dense, small, coupling, kept, x = pruned(name)
    parts = copy.deepcopy(small)
    least_squares(dense, small, coupling, kept, batches(x), damping=1e-4)
    least_squares(dense, parts, coupling, kept, batches(x, 40), damping=1e-4)
    assert_close(parts.state_dict(), small.state_dict(), rtol=1e-8, atol=1e-10)


def twins():
    """Channel 1 repeats 0 in the first layer, 4 repeats 2 in the second, 3 repeats 0 in the hidden linear one."""
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 9, 7),
        nn.ReLU(),
        nn.Linear(7, 4),
    ).double()
    for norm in (net[1], net[4]):
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
    for twin, owners in ((1, net[:2]), (4, net[3:5]), (3, net[7:8])):
        origin = {1: 0, 4: 2, 3: 0}[twin]
        for owner in owners:
            for tensor in owner.state_dict().values():
                if tensor.dim() > 0:
                    tensor[twin] = tensor[origin]
    return net.eval(), {"0": 1, "3": 4, "7": 3}


@pytest.mark.parametrize("which", [("0",), ("3",), ("7",), ("0", "3", "7")])
def test_the_twin_takes_over(which):
    dense, gone = twins()
    x = torch.randn(80, 2, 5, 5, dtype=torch.float64)
    coupling = couple(dense, x[:2])
    masks = {name: torch.arange(len(dense[int(name)].weight)) != gone[name] for name in which}
    small = cut(dense, coupling, masks)
    truth = dense(x).detach()
    assert (small(x) - truth).abs().max() > 1e-2 * truth.abs().max()
    fits = least_squares(dense, small, coupling, kept_positions(coupling, masks), batches(x), damping=0)
    assert_close(small(x).detach(), truth, rtol=1e-5, atol=1e-6)
    assert max(fit.after for fit in fits) < 1e-10
    unseen = torch.randn(10, 2, 5, 5, dtype=torch.float64)
    assert_close(small(unseen).detach(), dense(unseen).detach(), rtol=1e-5, atol=1e-5)


def test_nothing_cut_nothing_refitted():
    dense, x = CASES["plain"]()
    small = copy.deepcopy(dense)
    assert least_squares(dense, small, coupled("plain"), {}, batches(x)) == ()
    assert_close(small.state_dict(), dense.state_dict(), rtol=0, atol=0)


def test_weights_before_the_first_cut_stay_bitwise():
    dense, x = CASES["plain"]()
    coupling = coupled("plain")
    masks = {"6": torch.arange(8) != 3}
    kept = kept_positions(coupling, masks)
    small = cut(dense, coupling, masks)
    fits = least_squares(dense, small, coupling, kept, batches(x))
    assert [fit.module for fit in fits] == ["8"]
    for position in (0, 2):
        assert torch.equal(small[position].weight, dense[position].weight)


@pytest.mark.parametrize("name", ["residual", "grouped", "reused"])
def test_the_dense_network_is_untouched(name):
    dense, small, coupling, kept, x = pruned(name)
    dense.train()
    small.train()
    before = copy.deepcopy(dense.state_dict())
    least_squares(dense, small, coupling, kept, batches(x))
    assert all(torch.equal(dense.state_dict()[key], tensor) for key, tensor in before.items())
    for network in (dense, small):
        assert all(m.training for m in network.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
        assert all(p.requires_grad and p.grad is None for p in network.parameters())


class TwoReaders(nn.Module):
    """A convolution without bias whose output is read by two norms, or by a norm and a shortcut."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.stem = nn.Linear(6, 8)
        self.mix = nn.Linear(8, 5, bias=False)
        self.one, self.two = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        y = self.mix(F.relu(self.stem(x)))
        if self.kind == "relu":
            F.relu_(y)
            return self.head(self.one(y))
        return self.head(self.one(y) + (self.two(y) if self.kind == "norms" else y))


@pytest.mark.parametrize("kind", ["norms", "shortcut", "relu"])
def test_an_intercept_that_the_norm_cannot_carry_is_not_given_to_it(kind):
    """Whoever reads W' x must see the fit: shifting one reader's mean moves only that reader."""
    dense = TwoReaders(kind).double().eval()
    dense.stem.bias.data += 1
    x = torch.randn(200, 6, dtype=torch.float64)
    coupling = couple(dense, x[:4])
    masks = {"stem": torch.arange(8) >= 3}
    small = cut(dense, coupling, masks)
    kept = kept_positions(coupling, masks)
    [(X, _)] = calls(small, "mix", x)
    [(_, Y)] = calls(dense, "mix", x)
    least_squares(dense, small, coupling, kept, batches(x), damping=0)
    truth = torch.linalg.lstsq(X, Y).solution.T  # no intercept to be had
    assert_close(small.mix.weight.detach(), truth, rtol=1e-6, atol=1e-6)
    assert torch.equal(small.one.running_mean, dense.one.running_mean)


# --- batch-norm statistics --------------------------------------------------------------------------------------------


def by_hand(net, parts):
    """Mean over batches of batch mean and unbiased variance; the second norm sees what batch statistics made."""
    sums = None
    for x in parts:
        first = net[0](x)
        second = net[3](F.relu(F.batch_norm(first, None, None, net[1].weight, net[1].bias, training=True)))
        moments = [m for y in (first, second) for m in (y.mean((0, 2, 3)), y.transpose(0, 1).flatten(1).var(1))]
        sums = moments if sums is None else [a + b for a, b in zip(sums, moments, strict=True)]
    return [(s / len(parts)).detach() for s in sums]


def test_running_statistics_are_the_means_over_batches(device):
    net, x = CASES["bias-free"]()
    net, x = net.double(), torch.randn(11, *x.shape[1:], dtype=torch.float64)
    parts = x.split(4)  # 4, 4 and 3 samples: each batch counts the same
    truth = by_hand(net, parts)
    recalibrate(net.to(device), batches(x.to(device), 4))
    found = [net[1].running_mean, net[1].running_var, net[4].running_mean, net[4].running_var]
    assert_close([t.cpu() for t in found], truth, rtol=1e-10, atol=1e-12)
    assert net[1].num_batches_tracked == 3


def test_recalibration_forgets_what_was_there():
    one, x = CASES["residual"]()
    other = copy.deepcopy(one)
    other.bn2.running_mean += 5
    other.bn2.num_batches_tracked += 100
    for network in (one, other):
        recalibrate(network, batches(x))
    assert_close(other.state_dict(), one.state_dict(), rtol=0, atol=0)


def test_momentum_modes_and_weights_are_left_as_they_were():
    net, x = CASES["residual"]()
    net.train()
    net.bn1.eval()
    net.bn1.momentum, net.bn2.momentum = 0.37, None
    weights = {name: p.clone() for name, p in net.named_parameters()}
    modes = [m.training for m in net.modules()]
    recalibrate(net, batches(x))
    assert (net.bn1.momentum, net.bn2.momentum, net.bn3.momentum) == (0.37, None, 0.1)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(p, weights[name]) and p.grad is None for name, p in net.named_parameters())


def test_dropout_stays_off():
    net = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3)).double().train()
    x = torch.randn(20, 3, dtype=torch.float64)
    recalibrate(net, batches(x))
    assert_close(net[1].running_mean, x.mean(0), rtol=1e-12, atol=1e-12)


def test_a_batch_of_one_sample_has_no_variance_and_is_left_out():
    net, x = CASES["bias-free"]()
    other = copy.deepcopy(net)
    recalibrate(net, batches(x[:4]))
    recalibrate(other, batches(x[:5], 4))
    assert_close(other.state_dict(), net.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("net", [nn.Sequential(nn.Linear(3, 2)), nn.BatchNorm1d(3, track_running_stats=False)])
def test_without_running_statistics_no_pass_is_made(net):
    def forbidden():
        raise AssertionError
        yield

    before = copy.deepcopy(net.state_dict())
    recalibrate(net, forbidden())
    assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_no_usable_batch_keeps_the_statistics():
    net, x = CASES["bias-free"]()
    before = copy.deepcopy(net.state_dict())
    recalibrate(net, batches(x, 1))
    assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_a_failing_pass_keeps_the_momentum():
    net, x = CASES["bias-free"]()
    with pytest.raises(RuntimeError, match="channels"):
        recalibrate(net, [(x, LABELS), (x[:, :1], LABELS)])
    assert (net[1].momentum, net[4].momentum) == (0.1, 0.1)
    assert not any(m.training for m in net.modules())
