import pytest
import torch
from torch import nn

from infprune import selection
from infprune.coupling.couple import couple
from infprune.modes import computing, resolved
from infprune.scores import SCORES
from infprune.scores.contract import ScoringInputs
from infprune.scores.measure import collect, needs_of, score

CPU = torch.device("cpu")


def network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(inplace=True), nn.Conv2d(24, 32, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    ).eval()  # fmt: skip


def scored(name, precision):
    module = network()
    batches = [(torch.randn(16, 3, 8, 8), torch.arange(16) % 5) for _ in range(2)]
    layers = selection.prunable(couple(module, batches[0][0]))
    found = collect(module, layers, batches, needs_of([name]), seed=0, draws=1, precision=precision)
    types = {t.dtype for f in found.kronecker.values() for t in (f.inputs.sums.total(), f.gradients)}
    types |= {z.dtype for z in (*found.gates_model.values(), *found.gates_data.values())}
    return torch.cat([*score(name, ScoringInputs(module, layers, found)).values.values()]), types


def ranks(values):
    return values.argsort().argsort().double()


@pytest.mark.parametrize("name", [name for name, entry in SCORES.items() if entry.needs])
def test_bf16_ranks_as_float32_does(name):
    whole, _ = scored(name, "float32")
    half, types = scored(name, "bf16")
    assert not torch.equal(whole, half)
    assert types <= {torch.float32}
    if name != "theorem1":  # its row sums pass through zero: any change of the data turns it over
        assert torch.corrcoef(torch.stack([ranks(whole), ranks(half)]))[0, 1] > 0.9


def test_auto_is_bf16_where_there_are_instructions(monkeypatch):
    assert [resolved(p, CPU) for p in ("float32", "bf16")] == ["float32", "bf16"]
    for avx, amx, expected in ((True, False, "bf16"), (False, True, "bf16"), (False, False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert resolved("auto", CPU) == expected
    assert resolved("auto", torch.device("mps")) == "float32"


def test_products_run_in_the_format():
    module, x = nn.Linear(3, 2), torch.randn(4, 3)
    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        with computing(precision, CPU):
            assert module(x).dtype is dtype
