import subprocess
import sys
from pathlib import Path

import pytest
import torch

from infprune.coupling.couple import couple
from infprune.curvature.gram import Lags
from infprune.estimate import Rates, estimate, measured_rates, weightless
from infprune.models.build import build
from infprune.selection import prunable

SMALL = {"resnet20": (3, 32, 32), "alexnet5": (1, 28, 28)}
KEYS = {"batch": 32, "samples": 64, "positions": 64}


def opened(name):
    module = build(name, None, {}).eval()
    x = torch.randn(2, *SMALL[name])
    coupling = couple(module, x)
    return module, coupling, prunable(coupling), x


@pytest.mark.parametrize("name", SMALL)
def test_shapes_are_enough(name):
    module, coupling, layers, x = opened(name)
    found = estimate(module, coupling, layers, x, **KEYS)
    bare, shape = weightless(module, x)
    empty = estimate(bare, coupling, layers, shape, **KEYS)
    assert empty.activations == pytest.approx(found.activations, rel=0.01)
    for field in ("weights", "factors", "solving", "forward", "backward", "gram", "factorising", "widest"):
        assert getattr(empty, field) == getattr(found, field) > 0


def test_what_grows_with_what():
    module, coupling, layers, x = opened("resnet20")
    base = estimate(module, coupling, layers, x, **KEYS)
    more = estimate(module, coupling, layers, x, **KEYS | {"samples": 128})
    assert (more.gram, more.forward, more.peak) == (2 * base.gram, 2 * base.forward, base.peak)
    assert more.factorising == base.factorising
    assert estimate(module, coupling, layers, x, **KEYS | {"positions": None}).gram > base.gram
    gates = estimate(module, coupling, layers, x, **KEYS, kronecker=False)
    assert (gates.factors, gates.gram, gates.widest) == (0, 0, 0)
    assert base.seconds(Rates(1e9, 1e12, 1e12)) > base.seconds(Rates(1e10, 1e12, 1e12))


def test_factors_are_those_that_are_held():
    module, coupling, layers, x = opened("alexnet5")
    C = 256
    lags = Lags()
    lags.add(torch.randn(2, C, 6, 6), None)
    held = sum(t.numel() for t in vars(lags).values() if isinstance(t, dict) for t in t.values())
    assert held == 29 * C**2
    found = estimate(module, coupling, layers, x, **KEYS)
    widths = {"conv": [(289, 64), (577, 128), (1153, 256), (2305, 256)], "linear": [(1025, 512), (513, 10)]}
    assert found.factors == 4 * sum(m**2 + k**2 for pairs in widths.values() for m, k in pairs)
    assert found.widest == 2305


def test_rates_are_a_machines():
    rates = measured_rates()
    assert 1e8 < rates.factorising < rates.products < 1e15


MEASURE = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from infprune.coupling.couple import couple
from infprune.estimate import estimate
from infprune.models.build import build
from infprune.scores import SCORES
from infprune.scores.contract import ScoringInputs
from infprune.scores.measure import collect, needs_of, score
from infprune.selection import prunable
name, shape, batch = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3])
def peak():
    line = next(t for t in Path("/proc/self/status").read_text().splitlines() if t.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
module = build(name, None, {}).eval()
coupling = couple(module, torch.randn(2, *shape))
layers = prunable(coupling)
expected = estimate(module, coupling, layers, torch.randn(2, *shape), batch=batch, samples=batch, positions=64)
def work(size):
    data = [(torch.randn(size, *shape), torch.zeros(size, dtype=torch.int64))]
    found = collect(module, layers, data, needs_of(["influence"]), seed=0, draws=1, positions=64)
    return ScoringInputs(module, layers, found)
work(2)
Path("/proc/self/clear_refs").write_text("5")
before = peak()
score("influence", work(batch))
print((peak() - before) / (expected.peak - expected.weights))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's high-water mark")
@pytest.mark.parametrize(("name", "batch"), [("resnet20", 256), ("alexnet5", 256)])
def test_memory_is_what_was_estimated(name, batch):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, name, str(SMALL[name]), str(batch)], capture_output=True, text=True, check=True
    )
    assert 1 / 1.5 < float(done.stdout) < 1.5
