import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from infprune.errors import ArchitectureError, ConfigError, InputError
from infprune.models import MODELS
from infprune.models.build import build

FACTORY = """
import torch
from infprune.errors import InputError

def make(width=3): return torch.nn.Linear(2, width)
def text(): return "a network"
def broken(): raise RuntimeError("two\\nlines")
def ours(): raise InputError("told already")
constant = 5
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the working directory, importable only because resolve() puts that on the path."""
    (tmp_path / "infprune_test_factory.py").write_text(FACTORY)
    (tmp_path / "infprune_test_damaged.py").write_text("import infprune_no_such_module\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield "infprune_test_factory"
    sys.modules.pop("infprune_test_factory", None)


def test_named():
    model = build("resnet20", None, {"num_classes": 4})
    assert type(model) is type(MODELS["resnet20"]())
    assert model.linear.out_features == 4


def test_factory_in_the_working_directory(module):
    model = build(None, f"{module}:make", {"width": 6})
    assert isinstance(model, torch.nn.Linear)
    assert model.out_features == 6


def test_torchvision():
    model = build("torchvision:shufflenet_v2_x0_5", None, {"num_classes": 5})
    assert model.fc.out_features == 5


def test_torchvision_never_downloads(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("download attempted")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    model = build("torchvision:lraspp_mobilenet_v3_large", None, {})  # its backbone's weights default to a download
    assert sum(p.numel() for p in model.parameters()) == 3_221_538


@pytest.mark.parametrize(
    ("name", "factory", "args", "fragments"),
    [
        ("resnet2", None, {}, ["unknown model.name 'resnet2'", "did you mean", "resnet20"]),
        ("resnet18", None, {}, ["did you mean torchvision:resnet18"]),
        ("torchvision:resnet19", None, {}, ["torchvision:resnet18"]),
        ("zzzz", None, {}, ["choose one of digits_resnet", "model.factory"]),
        (None, None, {}, ["got neither"]),
        ("resnet20", "a:b", {}, ["got both"]),
        ("resnet20", None, {"depth": 3}, ["model.args ['depth'] do not fit resnet20", "num_classes"]),
        ("resnet20", None, {1: 3}, ["model.args ['1'] do not fit"]),
        ("resnet20", None, {"num_classes": "ten"}, ["model.args ['num_classes'] do not fit"]),
        ("torchvision:resnet18", None, {"depth": 3}, ["model.args ['depth'] do not fit torchvision:resnet18"]),
        ("torchvision:resnet18", None, {"weights": "DEFAULT"}, ["not downloaded", "model.checkpoint"]),
        (None, "no_colon", {}, ["model.factory must read pkg.mod:function", "'no_colon'"]),
        (None, "a..b:c", {}, ["must read pkg.mod:function"]),
        (None, "a:b.c()", {}, ["must read pkg.mod:function"]),
        (None, "infprune_no_such_module:f", {}, ["no module 'infprune_no_such_module'"]),
        (None, "infprune_test_factory:mak", {}, ["no function 'mak'", "did you mean infprune_test_factory:make?"]),
        (None, "infprune_test_factory:constant", {}, ["no function 'constant'"]),
        (None, "infprune_test_damaged:f", {}, ["importing infprune_test_damaged failed", "ModuleNotFoundError"]),
        (None, "infprune_test_factory:make", {"heigth": 1}, ["['heigth'] do not fit", "width=3"]),
    ],
)
@pytest.mark.usefixtures("module")
def test_config_errors(name, factory, args, fragments):
    with pytest.raises(ConfigError) as caught:
        build(name, factory, args)
    message = str(caught.value)
    assert "\n" not in message
    assert [f for f in fragments if f not in message] == []


def test_failing_factory_keeps_its_cause(module):
    with pytest.raises(ArchitectureError, match="broken failed with RuntimeError: two lines") as caught:
        build(None, f"{module}:broken", {})
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "\n" not in str(caught.value)


def test_impossible_architecture():
    with pytest.raises(ArchitectureError, match="digits_resnet failed with IndexError"):
        build("digits_resnet", None, {"widths": []})


def test_factory_must_return_a_module(module):
    with pytest.raises(ArchitectureError, match=r"text must return a torch\.nn.Module, got str"):
        build(None, f"{module}:text", {})


def test_our_own_errors_pass_through(module):
    with pytest.raises(InputError, match=r"^told already$"):
        build(None, f"{module}:ours", {})


def test_timm_is_asked_for_untrained_networks(monkeypatch):
    made = []

    def create_model(name, **args):
        made.append((name, args))
        return nn.Identity()

    timm = SimpleNamespace(create_model=create_model, is_model=lambda n: n == "net_a", list_models=lambda: ["net_a"])
    monkeypatch.setitem(sys.modules, "timm", timm)
    build("timm:net_a", None, {"num_classes": 3})
    assert made == [("net_a", {"num_classes": 3})]
    with pytest.raises(ConfigError, match=r"unknown model.name 'timm:net_b'; did you mean timm:net_a\?"):
        build("timm:net_b", None, {})
    with pytest.raises(ConfigError, match="weights are not downloaded"):
        build("timm:net_a", None, {"pretrained": True})
    assert len(made) == 1


def test_without_timm_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="needs the package timm; pip install timm"):
        build("timm:resnet18", None, {})
