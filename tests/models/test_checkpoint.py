import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from infprune.errors import InputError
from infprune.models import MODELS
from infprune.models.checkpoint import load_into, read_tensors

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, -1.0])}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def message_of(path):
    with pytest.raises(InputError) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def prefixed(prefix):
    return {prefix + key: value for key, value in TENSORS.items()}


def test_safetensors(tmp_path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    assert_equal(read_tensors(tmp_path / "w.safetensors"), TENSORS)


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {key: nn.Parameter(value) for key, value in TENSORS.items()},
        {"state_dict": TENSORS, "epoch": 3, "best": 0.5},
        {"model_state_dict": TENSORS, "optimizer": {"state": {}}},
        {"model": {"state_dict": TENSORS}},
        {"ema": TENSORS},
        prefixed("module."),
        {"state_dict": prefixed("module._orig_mod.model.")},
        {**TENSORS, "_extra_state": None},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files(tmp_path, content, zipped):
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path / "w.pt")
    assert_equal(found, TENSORS)
    assert not any(value.requires_grad for value in found.values())


def test_a_prefix_of_some_keys_stays(tmp_path):
    content = {"module.a": torch.ones(1), "b": torch.ones(1)}
    torch.save(content, tmp_path / "w.pt")
    assert read_tensors(tmp_path / "w.pt").keys() == content.keys()


def test_missing(tmp_path):
    assert "no checkpoint file" in message_of(tmp_path / "absent.safetensors")
    assert "no checkpoint file" in message_of(tmp_path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"not a checkpoint"])
def test_damaged(tmp_path, name, damage):
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path)
    path.write_bytes(damage(path.read_bytes()))
    message = message_of(path)
    assert "truncated or no checkpoint" in message or "damaged" in message


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path):
    target = tmp_path / "executed"
    torch.save({"state_dict": TENSORS, "x": Payload(target)}, tmp_path / "evil.pt")
    message = message_of(tmp_path / "evil.pt")
    assert "refused: loading it would execute code" in message
    assert ".safetensors" in message
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Payload(target)))
    assert "execute code" in message_of(tmp_path / "plain.pkl")
    assert not target.exists()


@pytest.mark.parametrize("content", [nn.Linear(2, 2), {"best": np.float64(0.5), "state_dict": TENSORS}])
def test_a_pickled_object_is_refused_by_name(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    message = message_of(tmp_path / "w.pt")
    assert "torch.nn.modules.linear.Linear" in message or "numpy" in message


@pytest.mark.parametrize("content", [{}, {"epoch": 1}, [torch.ones(2)], torch.ones(2), {"state_dict": {}}])
def test_no_tensors(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    assert "holds no named tensors" in message_of(tmp_path / "w.pt")


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def test_load_into_copies_every_tensor():
    source, target = network(), network()
    source[1].running_mean.fill_(3.0)
    load_into(target, source.state_dict(), "file")
    assert_equal(target.state_dict(), source.state_dict())


def test_load_into_accepts_missing_counters():
    state = network().state_dict()
    del state["1.num_batches_tracked"]
    target = network()
    load_into(target, state, "file")
    assert torch.equal(target[0].weight, state["0.weight"])


def test_load_into_a_module_whose_own_names_have_a_known_prefix(tmp_path):
    source, target = nn.ModuleDict({"model": network()}), nn.ModuleDict({"model": network()})
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_into(target, read_tensors(tmp_path / "w.pt"), "w.pt")
    assert_equal(target.state_dict(), source.state_dict())


def _without(*keys):
    return lambda state: {key: value for key, value in state.items() if key not in keys}


def _with(**new):
    return lambda state: {**state, **new}


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (_without("0.weight"), ["missing 0.weight;"]),
        (lambda _: {"z": torch.ones(1)}, ["missing 0.weight, 0.bias, 1.weight and 3 more", "unexpected z"]),
        (_with(extra=torch.ones(1)), ["another architecture", "unexpected extra;", "model.name"]),
        (_with(**{"0.weight": torch.ones(4, 3, 7, 7)}), ["shapes 0.weight: file (4,3,7,7), model (2,1,3,3)"]),
        (_with(**{"0.bias": torch.tensor([0.0, float("nan")])}), ["tensor 0.bias holds NaN or inf"]),
        (_with(**{"1.running_var": torch.tensor([0.0, float("inf")]).half()}), ["tensor 1.running_var holds NaN"]),
    ],
)
def test_load_into_refuses_and_leaves_the_module_alone(change, fragments):
    target = network()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_into(target, change(network().state_dict()), "weights.pt")
    message = str(caught.value)
    assert message.startswith("weights.pt")
    assert "\n" not in message
    assert [f for f in fragments if f not in message] == []
    assert_equal(target.state_dict(), before)


@pytest.mark.data
@pytest.mark.skipif("INFPRUNE_CHECKPOINTS" not in os.environ, reason="needs INFPRUNE_CHECKPOINTS")
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_public_cifar_weights_load_strictly(name):
    tensors = read_tensors(Path(os.environ["INFPRUNE_CHECKPOINTS"]) / f"{name}-cifar10.safetensors")
    model = MODELS[name]()
    model.load_state_dict(tensors, strict=True)
    load_into(MODELS[name](), tensors, name)
    assert torch.equal(model.layer1[0].conv1.weight, tensors["layer1.0.conv1.weight"])


class Endless:
    def __reduce__(self):
        return bytearray, (10**11,)


def compressed(path):
    plain = path.with_suffix(".plain")
    torch.save({"x": torch.zeros(10**6)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_asks_for_a_hundred_gigabytes_is_refused_before_it_gets_them(tmp_path, zipped):
    torch.save({"a": Endless()}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert "loading it would execute code (builtins.bytearray)" in message_of(tmp_path / "w.pt")


def test_a_compressed_archive_is_refused(tmp_path):
    compressed(tmp_path / "w.pt")
    assert (tmp_path / "w.pt").stat().st_size < 20_000
    assert "its members are compressed, which torch.save does not do" in message_of(tmp_path / "w.pt")


def test_a_wrapper_around_itself_and_a_file_without_end(tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pt")
    assert "holds no named tensors" in message_of(tmp_path / "w.pt")
    assert "no checkpoint file" in message_of(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.full((3, 2), 1e300, dtype=torch.float64), "weight holds NaN or inf"),  # too large for float32
        (torch.full((3, 2), float("nan")).to(torch.float8_e4m3fn), "weight holds NaN or inf"),
        (torch.zeros(3, 2, dtype=torch.complex64), "number formats weight: file complex64"),
    ],
)
def test_numbers_that_the_network_cannot_hold(value, told):
    module = nn.Linear(2, 3)
    before = module.weight.clone()
    with pytest.raises(InputError, match=told):
        load_into(module, {"weight": value, "bias": torch.zeros(3)}, "w")
    assert torch.equal(module.weight, before)
    load_into(module, {"weight": torch.ones(3, 2).to(torch.float8_e4m3fn), "bias": torch.zeros(3)}, "w")
    assert torch.equal(module.weight, torch.ones(3, 2))
