"""Networks nobody thought of: whatever coupling does not freeze can be cut, in any way, and the proof holds.

A failure prints the network: `check(*network)` runs it again, `build(*network)` makes it.
"""

import re
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from architectures import random_masks
from generated import build, networks
from infprune import cost
from infprune.coupling.couple import couple
from infprune.proof import difference, prove
from infprune.surgery import cut
from infprune.trial import settle
from masking import masked

EXACT = 1e-9  # float64; the tool's own tolerance is for float32
FACTS = re.compile(  # a reason names a line of code, or one of these
    r" at \w+\.py:\d+ `.+`"
    r"|it is an output of the network|nothing reads it|its channels are tied together"
    r"|is used outside a module of its own|makes these channels and reads them"
    r"|is also read element by element|mixes channels and positions"
    r"|reads the network's input in \S+|filters the input in \S+|the cut network fails: .+"
)

# Warned by torch in the cut network: an instance norm without tensors keeps its `num_features`.
pytestmark = [
    pytest.mark.filterwarnings("ignore:input's size at dim=1 does not match num_features"),
    pytest.mark.timeout(1800),  # shrinking a failure takes minutes
]


def random_plan(coupling, seed, share, skip):
    """Masks that keep about `share` of each layer's channels, never none, never all; some layers are left out."""
    generator = torch.Generator().manual_seed(seed)
    masks = random_masks(coupling, seed, share)
    return {name: mask for name, mask in masks.items() if float(torch.rand(1, generator=generator)) >= skip}


def check(steps, seed):
    """The property, for one network. Returns what was met."""
    module, example = build(steps, seed)
    module.train(seed % 2 > 0)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    modes = [m.training for m in module.modules()]
    coupling = settle(module, example)
    for layer in coupling.layers:
        assert layer.frozen is None or FACTS.search(layer.frozen), layer.frozen
    seen = Counter(networks=1, prunable=bool(coupling.prunable))
    for attempt, (share, skip) in enumerate([(0.6, 0.0), (0.4, 0.5)]):
        masks = random_plan(coupling, seed + attempt, share, skip)
        small = cut(module, coupling, masks)
        proof = prove(module, small, coupling, masks, [example, torch.randn_like(example)])
        assert proof.max_relative_error <= EXACT, proof
        seen["visible"] += attempt == 0 and difference(module, small, [example])[0] > 1e-3
        seen["masked by hooks"] += attempt == 0 and agrees_with_hooks(module, coupling, masks, small, example)
        assert_counted(coupling, masks, small, example if attempt == 0 and seed % 4 == 3 else None)
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], t) for name, t in before.items())
    assert [m.training for m in module.modules()] == modes
    return seen


def agrees_with_hooks(module, coupling, masks, small, x):
    """Whether there is a second truth; it must be the same."""
    truth = masked(module, coupling, masks)
    if truth is None or not masks:
        return False
    error, reason = difference(truth, small, [x])
    assert error <= EXACT, (error, reason)
    return True


def assert_counted(coupling, masks, small, example):
    """Costs told from shapes are those of the network that was made. MACs take another trace: with `example` only."""
    told = cost.count(coupling, {name: int(mask.sum()) for name, mask in masks.items()})
    assert told.params == sum(p.numel() for p in small.parameters())
    assert told.bytes == sum(t.nbytes for t in (*small.parameters(), *small.buffers()))
    if example is not None:
        assert told.macs == cost.count(couple(small, example)).macs


def hold(examples, shard, most):
    """The property for many networks, the same in every run. Enough of them are cut, and the cut shows."""
    seen = Counter()

    @seed(shard)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(networks(most=most))
    def holds(network):
        seen.update(check(*network))

    holds()
    assert seen["networks"] >= examples
    for what in ("prunable", "visible", "masked by hooks"):
        assert seen[what] > 0.4 * seen["networks"], seen


@pytest.mark.parametrize("shard", range(4))
def test_generated_networks(shard):
    hold(25, shard, most=4)


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(10, 20))
def test_many_generated_networks(shard):
    hold(200, shard, most=7)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(networks(), st.integers(0, 9))
def test_a_network_is_what_its_description_says(network, other):
    first, example = build(*network)
    torch.manual_seed(other)
    second, same = build(*network)
    assert torch.equal(example, same)
    with torch.no_grad():
        assert torch.equal(first(example), second(example))
        assert 0.05 < float(first(example).abs().max()) < 20
