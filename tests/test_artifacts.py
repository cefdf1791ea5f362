"""Files: identity of save and load, damage, versions, trust."""

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from infprune.artifacts import (
    KEY,
    Manifest,
    ScoresManifest,
    load,
    read_manifest,
    read_scores,
    write_model,
    write_scores,
)
from infprune.coupling.couple import couple
from infprune.errors import ConfigError, InputError
from infprune.models import MODELS
from infprune.models.attention import explicit
from infprune.models.checkpoint import digest, load_into, plain_tensors, read_tensors
from infprune.scores.contract import ChannelScores, Curve
from infprune.surgery import kept_positions, resized


def manifest_for(kept, **changes):
    fields = {
        "name": "digits_resnet",
        "factory": None,
        "args": {},
        "kept": {n: {d: at.tolist() for d, at in dims.items()} for n, dims in kept.items()},
        "inputs": [{"shape": [1, 8, 8], "dtype": "float32"}],
        "classes": 10,
        "base_sha256": None,
        "scores_sha256": None,
        "plan": {},
        "metrics": {},
        "config": {},
        "versions": {},
        "seed": 0,
    }
    return Manifest(**(fields | changes))


@pytest.fixture
def cut():
    dense = MODELS["digits_resnet"]().eval()
    coupling = couple(dense, torch.randn(2, 1, 8, 8))
    masks = {layer.name: torch.arange(layer.size) % 3 > 0 for layer in coupling.prunable}
    kept = kept_positions(coupling, masks)
    return resized(dense, kept), kept


def test_load_of_write_is_identity(cut, tmp_path):
    small, kept = cut
    write_model(tmp_path / "m.safetensors", small, manifest_for(kept))
    loaded = load(tmp_path / "m.safetensors")
    assert unsealed(loaded.manifest) == manifest_for(kept)
    for (name, a), (other, b) in zip(small.state_dict().items(), loaded.module.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b), name
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(small(x), loaded.module(x))


def test_same_network_same_bytes(cut, tmp_path):
    small, kept = cut
    for name in "ab":
        write_model(tmp_path / name, small, manifest_for(kept))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_manifest_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        manifest_for({}).seed = 1


def manifest_in(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[KEY])


def rewritten(path, **changes):
    """Write a file again with other words in its manifest, and without the seal that would tell of it."""
    content = {"sha256": None} | changes
    save_file(load_file(path), path, metadata={KEY: json.dumps(manifest_in(path) | content)})


def unsealed(manifest):
    return manifest.model_copy(update={"sha256": None})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"schema_version": 99}, "expected manifest schema 1, got 99"),
        ({"kind": "other"}, "expected a model file, got a other file"),
        ({"classes": "many"}, "damaged at classes"),
        ({"surprise": 1}, "damaged at surprise"),
        ({"inputs": [{"shape": [1, 8, 8]}]}, "damaged at inputs.0.dtype"),
        ({"kept": {"nowhere.weight": {"0": [0]}}}, "does not fit the network it names"),
        ({"kept": {"conv1.weight": {"0": [999]}}}, "does not fit the network it names"),
        ({"kept": {"conv1.weight": {"0": []}}}, "does not fit the network it names"),
        ({"kept": {}}, "another architecture"),
    ],
)
def test_a_manifest_that_lies_is_told(cut, tmp_path, changes, text):
    path = tmp_path / "m.safetensors"
    write_model(path, cut[0], manifest_for(cut[1]))
    rewritten(path, **changes)
    with pytest.raises(InputError, match=text):
        load(path)


def test_truncated_missing_and_plain_files(cut, tmp_path):
    path = tmp_path / "m.safetensors"
    write_model(path, cut[0], manifest_for(cut[1]))
    content = path.read_bytes()
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match="not a readable safetensors file"):
            load(path)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "nope")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain")
    with pytest.raises(InputError, match="without an infprune manifest"):
        load(tmp_path / "plain")


def test_a_factory_must_be_named_by_the_caller(cut, tmp_path):
    path = tmp_path / "m.safetensors"
    write_model(path, cut[0], manifest_for(cut[1], name=None, factory="infprune.models.digits_resnet:digits_resnet"))
    with pytest.raises(ConfigError, match="if you trust it, name it"):
        load(path)
    with pytest.raises(ConfigError, match="if you trust it, name it"):
        load(path, factory="infprune.models:other")
    made = load(path, factory="infprune.models.digits_resnet:digits_resnet").module
    assert digest(made) == digest(cut[0])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


def tied():
    return Tied()


def test_tied_weights_survive(tmp_path, monkeypatch):
    module = Tied()
    path = tmp_path / "m.safetensors"
    factory = "test_artifacts:tied"
    write_model(path, module, manifest_for({}, name=None, factory=factory))
    loaded = load(path, factory=factory).module
    assert loaded.a.weight is loaded.b.weight
    assert torch.equal(loaded.a.weight, module.a.weight)


def test_tied_weights_written_by_training_load_as_a_checkpoint(tmp_path):
    module = Tied()
    save_file(plain_tensors(module), tmp_path / "w.safetensors")
    other = Tied()
    load_into(other, read_tensors(tmp_path / "w.safetensors"), "w")
    assert torch.equal(other.a.weight, module.a.weight)
    assert torch.equal(other.b.bias, module.b.bias)


class Viewing(nn.Module):
    """A buffer looks at the first rows of a weight; two others are halves of one piece of memory."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 2))
        self.register_buffer("head", self.weight.detach()[:3])
        flat = torch.randn(8)
        self.register_buffer("left", flat[:4])
        self.register_buffer("right", flat[4:])


def test_a_view_of_a_part_is_a_tensor_of_its_own(tmp_path):
    module, other = Viewing(), Viewing()
    save_file(plain_tensors(module), tmp_path / "w.safetensors")
    load_into(other, read_tensors(tmp_path / "w.safetensors"), "w")
    assert all(torch.equal(t, module.state_dict()[name]) for name, t in other.state_dict().items())
    assert digest(other) == digest(module)


def scores_manifest():
    return ScoresManifest(criterion="gate", unit="nats", base_sha256="0" * 64, samples=5, seed=1, config={})


def test_scores_round_trip(tmp_path):
    scores = ChannelScores("gate", "nats", {"a": torch.rand(3).double(), "b": torch.rand(5).double()})
    write_scores(tmp_path / "s", scores, scores_manifest())
    found, made = read_scores(tmp_path / "s")
    assert unsealed(made) == scores_manifest()
    assert found.criterion == "gate"
    assert all(torch.equal(found.values[n], scores.values[n]) for n in "ab")


def test_curves_round_trip(tmp_path):
    curves = {"a": Curve((2, 1), (0.5, 1.25)), "b": Curve((), ())}
    scores = ChannelScores("gate", "nats", {"a": torch.rand(3).double(), "b": torch.rand(1).double()}, curves)
    write_scores(tmp_path / "s", scores, scores_manifest())
    assert read_scores(tmp_path / "s")[0].curves == curves


@pytest.mark.parametrize(
    "curve", [Curve((2, 1), (0.5,)), Curve((1, 2), (0.5, 1.0)), Curve((3,), (0.5,)), Curve((0,), (0.5,))]
)
def test_curves_that_do_not_fit_are_told(tmp_path, curve):
    scores = ChannelScores("gate", "nats", {"a": torch.rand(3).double()}, {"a": curve})
    write_scores(tmp_path / "s", scores, scores_manifest())
    with pytest.raises(InputError, match="the curve of a does not fit its scores; score again"):
        read_scores(tmp_path / "s")


def test_damaged_scores(tmp_path):
    write_scores(
        tmp_path / "s", ChannelScores("gate", "nats", {"a": torch.tensor([1.0, torch.nan])}), scores_manifest()
    )
    with pytest.raises(InputError, match="not a finite vector"):
        read_scores(tmp_path / "s")


def test_digest_sees_values_and_names_only():
    module = nn.Linear(3, 2)
    first = digest(module)
    assert digest(module) == first
    with torch.no_grad():
        module.weight[0, 0] += 1
    assert digest(module) != first


@pytest.mark.parametrize("text", ["[" * 100_000, '{"kind": ' + "9" * 5000 + "}", "[]", "{"])
def test_manifests_that_are_no_json_objects(tmp_path, text):
    save_file({"a": torch.zeros(1)}, tmp_path / "m", metadata={"infprune": text})
    for read in (read_manifest, read_scores):
        with pytest.raises(InputError, match="its manifest is not JSON"):
            read(tmp_path / "m")


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float16, torch.bool])
def test_scores_in_a_format_that_has_no_order_or_precision(tmp_path, dtype):
    write_scores(tmp_path / "s", ChannelScores("gate", "nats", {"a": torch.ones(2).to(dtype)}), scores_manifest())
    with pytest.raises(InputError, match="the scores of a are not a finite vector"):
        read_scores(tmp_path / "s")


def test_files_beside_a_model_are_written_with_it_or_none(tmp_path):
    (tmp_path / "m").write_bytes(b"old")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*config\.yaml"):
        write_model(tmp_path / "m", nn.Linear(2, 2), manifest_for({}), {tmp_path / "file" / "config.yaml": "x"})
    assert (tmp_path / "m").read_bytes() == b"old"
    write_model(tmp_path / "m", nn.Linear(2, 2), manifest_for({}), {tmp_path / "config.yaml": "x\n"})
    assert unsealed(read_manifest(tmp_path / "m")) == manifest_for({})
    assert (tmp_path / "config.yaml").read_text() == "x\n"


def test_positions_beyond_int64(tmp_path):
    write_model(tmp_path / "m", MODELS["digits_resnet"](), manifest_for({"conv1.weight": {0: torch.tensor([0])}}))
    rewritten(tmp_path / "m", kept={"conv1.weight": {"0": [2**63]}})
    with pytest.raises(InputError, match="its manifest does not fit the network it names"):
        load(tmp_path / "m")


def flip(path, tensor, bit=0):
    """Flip a bit of the first byte of a tensor in a safetensors file."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:start])[tensor]
    data[start + entry["data_offsets"][0]] ^= 1 << bit
    path.write_bytes(data)


CHANGED = r"damaged or changed since it was written \(its SHA-256 differs\); fetch it again$"


@pytest.mark.parametrize("tensor", ["conv1.weight", "bn1.running_var", "linear.bias"])
def test_a_flipped_bit_of_a_weight_is_told(cut, tmp_path, tensor):
    path = tmp_path / "m.safetensors"
    write_model(path, cut[0], manifest_for(cut[1]))
    flip(path, tensor)
    for read in (load, read_manifest, read_tensors):  # the last: as `model.checkpoint`
        with pytest.raises(InputError, match=CHANGED):
            read(path)
    flip(path, tensor)
    assert load(path).manifest.sha256 is not None
    assert read_tensors(path).keys() == cut[0].state_dict().keys()


def test_a_flipped_bit_of_a_score_is_told(tmp_path):
    scores = ChannelScores("gate", "nats", {"a": torch.rand(3).double()})
    write_scores(tmp_path / "s", scores, scores_manifest())
    flip(tmp_path / "s", "a")
    with pytest.raises(InputError, match=CHANGED):
        read_scores(tmp_path / "s")


def test_a_manifest_changed_under_its_seal_is_told(cut, tmp_path):
    path = tmp_path / "m.safetensors"
    write_model(path, cut[0], manifest_for(cut[1]))
    sealed = manifest_in(path)
    rewritten(path, sha256=sealed["sha256"])
    assert load(path).manifest.seed == 0
    rewritten(path, seed=1, sha256=sealed["sha256"])
    with pytest.raises(InputError, match=CHANGED):
        load(path)


def test_files_from_before_there_were_seals_load(cut, tmp_path):
    path = tmp_path / "m.safetensors"
    write_model(path, cut[0], manifest_for(cut[1]))
    content = manifest_in(path)
    del content["sha256"]
    save_file(load_file(path), path, metadata={KEY: json.dumps(content)})
    flip(path, "linear.bias")
    assert load(path).manifest == manifest_for(cut[1])
    assert "linear.bias" in read_tensors(path)


def test_weights_under_a_manifest_that_is_no_json_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", metadata={KEY: "{"})
    with pytest.raises(InputError, match="its manifest is not JSON"):
        read_tensors(tmp_path / "m.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", metadata={"format": "pt"})
    assert read_tensors(tmp_path / "m.safetensors").keys() == {"a"}


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def attending():
    return Attending()


@pytest.mark.parametrize("opened", [True, False])
def test_attention_is_rebuilt_as_it_was_written(tmp_path, opened):
    module = explicit(Attending()) if opened else Attending()
    factory = "test_artifacts:attending"
    described = manifest_for({}, name=None, factory=factory, explicit_attention=opened)
    write_model(tmp_path / "m", module, described)
    found = load(tmp_path / "m", factory=factory).module
    assert found.state_dict().keys() == module.state_dict().keys()
    x = torch.randn(2, 3, 8)
    assert torch.equal(found(x), module.eval()(x))
