"""`infprune features` against dense references, on images of several channels. Whole runs: test_instrument_commands."""

import csv
import importlib
import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import reference
from infprune.data import splits
from test_bad_input import one_line

DATA = ["data.factory=colours:data", "model.checkpoint=random", "data.validation=0.05", "data.batch_size=32"]
COLOURS = """
import torch
from torch import nn
from infprune.data.dataset import ArrayDataset, Source

def samples(count=120):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, 2, 4, generator=g)
    return x, (x[:, 0, 1, 2] > 0).long() + (x[:, 1, 0, 0] > 1).long()

def data():
    x, y = samples()
    return Source(ArrayDataset(x[:80], y[:80]), ArrayDataset(x[80:], y[80:]), 3, (3, 2, 4))

def seeded(make):
    def made(**args):
        torch.manual_seed(0)
        return make(**args)
    return made

@seeded
def deep():
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 4), nn.Tanh(), nn.Linear(4, 3))

@seeded
def convolved():
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))

@seeded
def normed():
    return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(24, 3))

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.deep, self.wide, self.head = nn.Linear(24, 4), nn.Linear(24, 3), nn.Linear(4, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(self.deep(x).tanh()) + self.wide(x)

wide = seeded(Wide)
"""


EYE = torch.eye(24 * 4 + 4 + 15, dtype=torch.float64)


@pytest.fixture
def colours(tmp_path, monkeypatch):
    """The module of the factories."""
    (tmp_path / "colours.py").write_text(COLOURS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return importlib.import_module("colours")


def found(infprune, network, *words):
    outcome = infprune("features", *DATA, f"model.factory=colours:{network}", *words, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.json


def values(result):
    return torch.tensor([row["influence"] for row in result["rows"]], dtype=torch.float64)


def training():
    """What is left for training; there are fewer than `data.calibration`, so all of it is used."""
    data = splits.load(None, "colours:data", None, download=False, args={}, validation=0.05, seed=0)
    return torch.stack([x for x, _ in data.train]).double()


def of_pixels(H, theta):
    """Three first-layer columns per pixel, one of each channel."""
    groups = ([o * 24 + c * 8 + i for o in range(4) for c in range(3)] for i in range(8))
    return torch.stack([reference.block(H, theta, S)[1] for S in groups])


def test_the_channels_of_a_pixel_go_together(infprune, colours):
    result = found(infprune, "deep", "influence.damping=0.05")
    net = colours.deep().double()
    truth = of_pixels(reference.ggn(net, training()) + 0.05 * EYE, reference.flat(net))
    assert_close(values(result), truth, rtol=1e-6, atol=1e-9)
    assert result["shape"] == [2, 4]
    assert [row["name"] for row in result["rows"]][3:5] == ["pixel (0, 3)", "pixel (1, 0)"]
    assert (result["read_by"], result["curvature"]["space"]) == ("1.weight", "weights")
    order = truth.argsort(descending=True).tolist()
    assert [result["rows"][i]["rank"] for i in order] == list(range(1, 9))


def test_a_fitted_network_is_at_its_minimum(infprune, colours):
    """The same algebra there: the pixels that make the label are worth most."""
    result = found(infprune, "deep", "influence.fit=true", "influence.ridge=0.03")
    assert result["curvature"]["gradient_norm"] <= 1e-10
    assert (result["curvature"]["ridge"], result["curvature"]["damping"]) == (0.03, 0.0)
    assert {row["name"] for row in result["rows"] if row["rank"] <= 2} == {"pixel (1, 2)", "pixel (0, 0)"}
    assert result["accuracy"] > 0.6


def test_gates_on_the_inputs(infprune, colours):
    result = found(infprune, "deep", "influence.space=gates", "influence.damping=0.01")
    net, x = colours.deep().double(), training()
    F = torch.zeros(24, 24, dtype=torch.float64)
    for sample in x:
        J = torch.autograd.functional.jacobian(lambda g, s=sample: net((g * s)[None])[0], torch.ones(3, 2, 4).double())
        p = net(sample[None])[0].detach().softmax(0)
        J = J.flatten(1)
        F += J.T @ (torch.diag(p) - torch.outer(p, p)) @ J / len(x)
    H, ones = F + 0.01 * torch.eye(24, dtype=torch.float64), torch.ones(24, dtype=torch.float64)
    truth = [reference.block(H, ones, [i, 8 + i, 16 + i])[1] for i in range(8)]
    assert_close(values(result), torch.stack(truth), rtol=1e-6, atol=1e-9)
    assert result["read_by"] == "gates on the inputs"


def test_kronecker_blocks_of_pixels(infprune, colours):
    """Only the block of the first layer matters: other layers do not adapt."""
    words = ["influence.curvature=kfac", "influence.damping=0.02"]
    dense, free = (
        found(infprune, "deep", *words, f"influence.solver={s}", "influence.rtol=1e-9") for s in ("auto", "cg")
    )
    assert_close(values(dense), values(free), rtol=1e-3, atol=1e-8)
    net = colours.deep().double()
    x = training()
    z = torch.cat([x.flatten(1), torch.ones(len(x), 1).double()], 1)
    A = z.T @ z / len(x)
    J = torch.autograd.functional.jacobian(lambda a: net[3](a.tanh()), net[1](x.flatten(1)).detach())
    J = J.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # of each sample in its own
    p = net(x).detach().softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    G = torch.einsum("nko,nkl,nlp->op", J, inner, J) / len(x)
    H = torch.kron(G.contiguous(), A) + 0.02 * torch.eye(100, dtype=torch.float64)
    theta = torch.cat([net[1].weight, net[1].bias[:, None]], 1).detach().flatten()
    groups = ([o * 25 + c * 8 + i for o in range(4) for c in range(3)] for i in range(8))
    truth = torch.stack([reference.block(H, theta, S)[1] for S in groups])
    assert_close(values(dense), truth, rtol=1e-5, atol=1e-9)


def test_a_convolution_reads_channels(infprune, colours):
    result = found(infprune, "convolved")
    assert (result["read_by"], result["shape"], len(result["rows"])) == ("0.weight", None, 3)
    assert min(values(result)) > 0


@pytest.mark.parametrize(
    ("network", "text"), [("wide", "several weights read"), ("normed", "no linear or convolution")]
)
def test_inputs_that_no_single_weight_reads_are_gated(infprune, colours, network, text):
    result = found(infprune, network)
    assert (result["curvature"]["space"], result["read_by"]) == ("gates", "gates on the inputs")
    assert len(result["rows"]) == 8
    outcome = infprune("features", *DATA, f"model.factory=colours:{network}", "influence.space=weights")
    assert outcome.code == 3
    assert text in one_line(outcome)
    assert "use influence.space=gates" in outcome.err


def test_the_same_run_writes_the_same_bytes(infprune, colours):
    def contents(folder):
        result = found(infprune, "deep", f"run.dir={folder}")
        files = {Path(f).suffix: Path(f).read_bytes() for f in result["files"]}
        data = json.loads(files.pop(".json"))
        assert data.pop("files") == [f"{folder}/features.{kind}" for kind in ("json", "csv", "png")]
        assert data.pop("run_dir") == folder
        del data["seconds"]
        return data, files

    first, again = contents("a"), contents("b")
    assert first == again
    rows = list(csv.DictReader(first[1][".csv"].decode().splitlines()))
    assert [float(r["influence"]) for r in rows] == [r["influence"] for r in first[0]["rows"]]
    assert first[1][".png"][:8] == b"\x89PNG\r\n\x1a\n"


def test_too_many_inputs_to_gate(infprune, tmp_path, monkeypatch):
    (tmp_path / "large.py").write_text(
        "import torch\nfrom torch import nn\nfrom infprune.data.dataset import ArrayDataset, Source\n"
        "def data():\n"
        "    part = ArrayDataset(torch.rand(8, 3, 65, 64), torch.arange(8) % 2)\n"
        "    return Source(part, part, 2, (3, 65, 64))\n"
        "def net(): return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["data.factory=large:data", "model.factory=large:net", "model.checkpoint=random"]
    outcome = infprune("features", *words)
    assert outcome.code == 2
    assert "features: 12480 input entries, at most 12288 can be gated" in one_line(outcome)
