"""The commands in the headers of the configurations of `unlearn` and `trace`, MNIST being a stand-in made of digits."""

import csv
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from infprune.config import shipped
from infprune.data.dataset import DataRequest, gather
from infprune.data.digits import digits
from infprune.files import sha256

pytestmark = pytest.mark.slow

CONFIGS = [n for n in shipped() if re.search(r"infprune (unlearn|trace) -c", shipped()[n].read_text())]
UNLEARN = [n for n in CONFIGS if "infprune unlearn" in shipped()[n].read_text()]
TRACE = [n for n in CONFIGS if n not in UNLEARN]


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """scikit-learn's digits, 28 pixels wide, in MNIST's files."""
    root = tmp_path_factory.mktemp("mnist")
    (root / "MNIST" / "raw").mkdir(parents=True)
    source = digits(DataRequest("digits", None, download=False, args={}))
    for part, data in (("train", source.train), ("t10k", source.test)):
        x, y = gather(data, range(len(data)))
        x = (x - x.amin()) / (x.amax() - x.amin())
        pixels = F.pad(F.interpolate(x, scale_factor=3), (2, 2, 2, 2))[:, 0]
        for name, array in (("images-idx3", 255 * pixels), ("labels-idx1", y)):
            values = array.numpy().astype(np.uint8)
            header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (root / "MNIST" / "raw" / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())
    return root


def commands(name, root):
    """The command lines of a configuration's header, as words."""
    header = shipped()[name].read_text().partition("\n\n")[0]
    found = [line.split() for line in re.findall(r"infprune (\S+ -c .*)", header)]
    return [[w.replace("PATH", str(root)) for w in line] for line in found]


def test_all_are_found():
    assert set(UNLEARN) >= {"digits-backdoor", "mnist-backdoor", "mnist-unlearn-class"}
    assert set(TRACE) >= {"digits-two-stage", "mnist-two-stage"}


@pytest.mark.parametrize("name", UNLEARN)
def test_train_and_unlearn(infprune, mnist, name):
    train, unlearn = commands(name, mnist)
    few = ["unlearn.samples=256", "unlearn.applications=6", "finetune.epochs=1"]
    whole = ["train.epochs=15", "data.validation=0.2", "data.batch_size=64"]  # a small split judges by luck
    made = infprune(*train, *whole, "-q")
    assert made.code == 0, made.err
    outcome = infprune(*unlearn, *whole, *few, "unlearn.ratio=0.2", "--json")
    assert outcome.code == 0, outcome.err
    before, after = outcome.json["before"], outcome.json["after"]
    if outcome.json["forget"] == "backdoor":
        assert before["attack_elsewhere"] > 0.8
        assert after["attack_elsewhere"] < 0.3
        assert after["relabelled"] > before["relabelled"] + 0.4
    else:
        assert before["forgotten"] > 0.9
        assert after["forgotten"] < 0.1
    assert after["kept"] > before["kept"] - 0.08
    assert outcome.json["parameters_changed"] < 0.25 * outcome.json["parameters"]
    assert outcome.json["finetuned"] is not None
    again = infprune("evaluate", outcome.json["artifact"], "--json", "data.root=" + str(mnist)).json
    assert again["accuracy"] == after["accuracy"]


@pytest.mark.parametrize("name", TRACE)
def test_trace_and_replay(infprune, mnist, name):
    (words,) = commands(name, mnist)
    small = ["trace.pretrain_samples=200", "trace.finetune_samples=200", "train.epochs=12", "finetune.epochs=12"]
    loose = ["trace.hessian_samples=100", "trace.max_iterations=12", "run.dir=run"]
    loose += ["trace.pretrain_damping=5", "trace.finetune_damping=5"]  # twelve epochs are far from a minimum
    outcome = infprune(*words, *small, *loose, "--json")
    assert outcome.code == 0, outcome.err
    first, second = outcome.json["stages"]
    assert (first["samples"], second["samples"]) == (200, 200)
    assert first["accuracy"] > 0.8
    assert second["accuracy"] > 0.6
    assert outcome.json["case"] == 1
    lines = list(csv.DictReader(Path("run/trace.csv").read_text().splitlines()))
    values = torch.tensor([float(line["influence"]) for line in lines])
    assert len(values) == 200
    assert values.max() > 0 > values.min()
    page = Path("run/trace.html").read_text()
    assert page.count('src="data:image/png;base64,') == 2 * 12 + 1
    assert {p.name for p in Path("run/figures").glob("*.png")} == {"distribution.png", "identity.png"}
    told = sha256("run/trace.csv")
    again = infprune("trace", "-c", "run/config.yaml", "--json")
    assert again.code == 0, again.err
    assert sha256("run/trace.csv") == told
