"""The smaller network equals the dense one with the same channels silenced, for every network and any masks."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from architectures import ARCHITECTURES, SLOW, coupled, random_masks
from cases import CASES
from infprune.coupling.couple import couple
from infprune.errors import ArchitectureError
from infprune.proof import TOLERANCE, prove
from infprune.surgery import cut, kept_positions, resized, silenced


def outputs(module, x):
    with torch.no_grad():
        return copy.deepcopy(module).eval()(x)


def difference(a, b):
    return float((a - b).abs().max() / b.abs().max())


def state(module):
    return {name: t.clone() for name, t in module.state_dict().items()}


def check(name, masks):
    """The proof holds, on a cut that removes what it should. Returns the smaller network."""
    module, example, coupling = coupled(name)
    before = state(module)
    small = cut(module, coupling, masks)
    proof = prove(module, small, coupling, masks, [example, torch.rand_like(example)])
    assert proof.holds
    assert proof.failed == ()
    assert proof.max_relative_error <= TOLERANCE == 1e-5
    assert_consistent(small)
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), before.values(), strict=True))
    removed = {name: int((~mask).sum()) for name, mask in masks.items()}
    shapes = {name: list(t.shape) for name, t in module.state_dict().items()}
    for layer in coupling.layers:
        for s in layer.slices:
            shapes[s.tensor][s.dim] -= removed.get(layer.name, 0) * s.index.shape[1]
    names = dict([*small.named_parameters(), *small.named_buffers()])
    assert {n: list(t.shape) for n, t in names.items()} == {n: shapes[n] for n in names}
    return small


def assert_consistent(module):
    """Attributes say what the tensors are."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)
            assert layer.in_channels % layer.groups == layer.out_channels % layer.groups == 0
            assert layer.bias is None or layer.bias.shape == (layer.out_channels,)
        elif isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features)
            assert layer.bias is None or layer.bias.shape == (layer.out_features,)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                assert tensor.shape == (layer.num_features,)


@st.composite
def masks_of(draw, name):
    """Any masks that keep a channel per layer; some layers are left out."""
    masks = {}
    for layer in coupled(name)[2].prunable:
        if draw(st.booleans(), label=f"cut {layer.name}"):
            flags = draw(st.lists(st.booleans(), min_size=layer.size, max_size=layer.size))
            flags[draw(st.integers(0, layer.size - 1))] = True
            masks[layer.name] = torch.tensor(flags)
    return masks


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_small_equals_silenced(name, data):
    check(name, data.draw(masks_of(name)))


@pytest.mark.parametrize("share", [0.1, 0.7])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_small_equals_silenced_in_architectures(name, share):
    module, example, coupling = coupled(name)
    small = check(name, random_masks(coupling, seed=3, share=share))
    # An equality of outputs proves something only where the cut shows in them.
    assert difference(outputs(small, example), outputs(module, example)) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_small_equals_silenced_in_large_architectures(name):
    for seed, share in ((0, 0.1), (1, 0.5), (2, 0.9)):
        check(name, random_masks(coupled(name)[2], seed, share))


@pytest.mark.parametrize("name", [*CASES, "shufflenet_v2", "densenet"])
def test_one_channel_left_everywhere(name):
    masks = random_masks(coupled(name)[2], seed=5, share=0.0)
    assert all(int(mask.sum()) == 1 for mask in masks.values())
    module, example, _ = coupled(name)
    assert difference(outputs(check(name, masks), example), outputs(module, example)) > 1e-2


@pytest.mark.parametrize("name", [*CASES, "digits_resnet"])
def test_a_second_cut_of_the_cut_network(name):
    module, example, coupling = coupled(name)
    once = cut(module, coupling, random_masks(coupling, seed=1, share=0.8))
    again = couple(once, example)
    masks = random_masks(again, seed=2)
    assert [layer.name for layer in again.prunable] == [layer.name for layer in coupling.prunable]
    assert prove(once, cut(once, again, masks), again, masks, [example]).holds


# --- resized: tensors and attributes


def image_net():
    """Convolution, depthwise, norm, linear; mixed modes, dtypes, grad flags and formats; two tied tensors."""
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Flatten(),
        nn.Linear(6 * 4, 5),
        nn.Linear(5, 5),
        nn.Linear(5, 5),
    )
    net[6].weight = net[5].weight
    net.register_buffer("twin", net[1].running_var)
    return net


def test_keeps_flags_dtype_format_and_mode():
    net = image_net().to(torch.float64).to(memory_format=torch.channels_last)
    net.train()
    net[1].eval()
    net[2].weight.requires_grad_(False)
    small = resized(net, {"0.weight": {0: torch.tensor([0, 3])}, "2.weight": {0: torch.tensor([0, 3])}})
    assert small[0].weight.shape == (2, 3, 3, 3)
    assert torch.equal(small[0].weight, net[0].weight[[0, 3]])
    assert small[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not small[0].weight.is_contiguous()
    assert small[0].weight.dtype == torch.float64
    assert isinstance(small[0].weight, nn.Parameter)
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in net.parameters()]
    assert [m.training for m in small.modules()] == [m.training for m in net.modules()]
    assert small[0].weight.is_leaf
    assert small[0].weight.grad is None


def test_contiguous_stays_contiguous():
    small = resized(image_net(), {"0.weight": {0: torch.tensor([1, 2]), 1: torch.tensor([0, 2])}})
    assert small[0].weight.is_contiguous()
    assert small[0].weight.shape == (2, 2, 3, 3)
    assert (small[0].in_channels, small[0].out_channels) == (2, 2)


def test_tied_tensors_stay_tied():
    net = image_net()
    small = resized(net, {"5.weight": {0: torch.tensor([0, 2]), 1: torch.tensor([1, 4])}})
    assert small[6].weight is small[5].weight
    assert small[6].weight is not net[6].weight
    assert torch.equal(small[6].weight, net[5].weight[[0, 2]][:, [1, 4]])
    assert (small[6].in_features, small[6].out_features) == (2, 2)
    by_other_name = resized(net, {"twin": {0: torch.tensor([5])}})
    assert by_other_name.twin is by_other_name[1].running_var
    assert by_other_name[1].running_var.tolist() == net.twin[5:].tolist()


def test_depthwise_attributes():
    small = resized(image_net(), {"2.weight": {0: torch.tensor([0, 1, 5])}, "2.bias": {0: torch.tensor([0, 1, 5])}})
    assert (small[2].groups, small[2].in_channels, small[2].out_channels) == (3, 3, 3)
    wide = nn.Conv2d(4, 12, 3, groups=4)
    narrow = resized(wide, {"weight": {0: torch.tensor([3, 4, 5])}, "bias": {0: torch.tensor([3, 4, 5])}})
    assert (narrow.groups, narrow.in_channels, narrow.out_channels) == (1, 1, 3)
    assert narrow(torch.randn(1, 1, 3, 3)).shape == (1, 3, 1, 1)


def test_grouped_attributes():
    small = resized(nn.Conv2d(8, 6, 3, groups=2), {"weight": {0: torch.tensor([0, 3]), 1: torch.tensor([1])}})
    assert (small.groups, small.in_channels, small.out_channels) == (2, 2, 2)


def test_the_input_module_shares_nothing_with_the_result():
    net = image_net()
    before = state(net)
    small = resized(net, {"0.weight": {0: torch.tensor([0])}})
    attributes = {k: v for k, v in vars(net[0]).items() if isinstance(v, int)}
    with torch.no_grad():
        for tensor in [*small.parameters(), *small.buffers()]:
            tensor.zero_()
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert attributes["out_channels"] == 6
    empty = resized(net, {})
    assert all(torch.equal(t, before[name]) for name, t in empty.state_dict().items())
    assert not {t.data_ptr() for t in empty.parameters()} & {t.data_ptr() for t in net.parameters()}


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"nobody.weight": {0: [0]}}, "cannot cut nobody.weight: the network has no tensor of that name"),
        ({"0.weight": {0: [0, 6]}}, r"cannot keep these positions of 0.weight: its shape is \(6, 3, 3, 3\)"),
        ({"0.weight": {0: [6, 0]}}, r"cannot keep these positions of 0.weight"),
        ({"0.weight": {0: [-1]}}, r"cannot keep these positions of 0.weight"),
        ({"0.weight": {4: [0]}}, r"cannot keep these positions of 0.weight"),
        ({"0.weight": {-1: [0]}}, r"cannot keep these positions of 0.weight"),
        ({"0.weight": {0: []}}, r"cannot keep these positions of 0.weight"),
    ],
)
def test_what_does_not_exist_cannot_be_kept(kept, message):
    positions = {n: {d: torch.tensor(p, dtype=torch.int64) for d, p in dims.items()} for n, dims in kept.items()}
    with pytest.raises(ArchitectureError, match=message):
        resized(image_net(), positions)


# --- masks to positions


def test_kept_positions():
    module, _, coupling = coupled("plain")
    masks = {"0": torch.ones(6, dtype=torch.bool), "2": torch.tensor([True, False, True, True, False])}
    kept = kept_positions(coupling, masks)
    columns = [9 * c + p for c in (0, 2, 3) for p in range(9)]
    assert {n: {d: p.tolist() for d, p in dims.items()} for n, dims in kept.items()} == {
        "2.weight": {0: [0, 2, 3]},
        "2.bias": {0: [0, 2, 3]},
        "6.weight": {1: columns},
    }
    assert kept_positions(coupling, {}) == {}
    assert torch.equal(cut(module, coupling, masks)[6].weight, module[6].weight[:, columns])


def test_kept_positions_of_two_layers_in_one_dimension():
    _, _, coupling = coupled("concat")
    drop_one = {layer.name: torch.arange(layer.size) != 1 for layer in coupling.prunable}
    kept = kept_positions(coupling, drop_one)
    assert kept["conv2.weight"][1].tolist() == [0, 2, 3, 4, 6]
    assert kept["head.weight"][1].tolist() == [0, 2, 3, 4, 6, 7, 9, 10, 11]


def test_silenced_zeroes_what_consumers_read():
    module, _, coupling = coupled("separable")
    mask = torch.tensor([True, False, True, True, False, True])
    dense = silenced(module, coupling, {"0": mask})
    assert not dense[6].weight[:, ~mask].any()
    assert torch.equal(dense[6].weight[:, mask], module[6].weight[:, mask])
    changed = {n for n, t in dense.state_dict().items() if not torch.equal(t, module.state_dict()[n])}
    assert changed == {"6.weight"}
