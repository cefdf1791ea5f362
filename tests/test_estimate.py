import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cases import CLASSES, Residual
from infprune.coupling.couple import couple
from infprune.estimate import Rates, estimate, measured_rates
from infprune.models.build import build
from infprune.scores.measure import collect, needs_of
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
    """On the meta device tensors have shapes and no memory."""
    module, coupling, layers, x = opened(name)
    found = estimate(module, coupling, layers, x, **KEYS)
    empty = estimate(module.to("meta"), coupling, layers, x.to("meta"), **KEYS)
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


def held(sums):
    parts = vars(sums).values()
    tensors = [t for part in parts if isinstance(part, dict) for t in part.values()]
    return sum(t.nbytes for t in tensors or [sums._sum])


@pytest.mark.parametrize("name", SMALL)
def test_factors_are_those_that_are_held(name):
    module, coupling, layers, x = opened(name)
    found = estimate(module, coupling, layers, x, **KEYS)
    needs = needs_of(["influence"])
    made = collect(module, layers, [(x, torch.zeros(2, dtype=torch.int64))], needs, seed=0, draws=1, positions=64)
    assert found.factors == sum(held(f.inputs.sums) + f.gradients.nbytes for f in made.kronecker.values())
    assert found.widest == max(f.inputs.dense().shape[-1] for f in made.kronecker.values())


def test_all_that_read_a_layer_are_inverted_together():
    module = Residual()
    x = torch.randn(2, 3, 8, 8)
    coupling = couple(module, x)
    found = estimate(module, coupling, prunable(coupling), x, **KEYS)
    read = [(9 * 7 + 1, 4), (7 + 1, CLASSES)]  # conv3 and head: inputs and the bias, outputs
    assert found.solving == 8 * sum(m * (m + 2 * k) for m, k in read)


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
