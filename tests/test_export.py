"""Exported files: what they compute, for any batch; what is refused; what is noticed."""

import io
import sys
import warnings
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import nn

from infprune import export
from infprune.errors import ArchitectureError, ConfigError, InputError, QualityError
from infprune.export import FORMATS, available, checked, encoded
from infprune.forward import head, logits, tensors

formats = pytest.mark.parametrize("kind", FORMATS)


class Net(nn.Module):
    """Normalised, so that training mode would give other numbers."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        nn.init.uniform_(self.bn.running_mean, -1, 1)
        nn.init.uniform_(self.bn.running_var, 1, 2)

    def forward(self, image):
        return self.head(self.bn(self.conv(image)).relu().mean((2, 3)))


@dataclass
class Answer:
    hidden: torch.Tensor
    logits: torch.Tensor


class Named(Net):
    def forward(self, image):
        return Answer(image, super().forward(image))


class Mapping(Net):
    def forward(self, image):
        return {"hidden": image, "logits": super().forward(image)}


class Pair(Net):
    def forward(self, image):
        return super().forward(image), image


class Starred(Net):
    def forward(self, *images):
        return super().forward(images[0])


class Counting(Net):
    """`len` is an int, which fixes the batch unless the code itself is traced."""

    def forward(self, image):
        return super().forward(image.view(len(image), 2, 5, 5))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(2, 4), nn.Linear(4, 3)

    def forward(self, tokens, weights):
        return self.head((self.embed(tokens) * weights[..., None]).mean(1))


class Looping(Net):
    def forward(self, image):
        return torch.cat([super(Looping, self).forward(one[None]) for one in image])


class Branching(Net):
    def forward(self, image):
        return super().forward(image) if image.sum() > 0 else self.head.bias.expand(len(image), 3)


def images(count):
    return torch.randn(count, 2, 5, 5, generator=torch.Generator().manual_seed(count))


def sentences(count):
    return torch.randint(2, (count, 6)), torch.rand(count, 6)


def example(made):
    return sentences if made is TwoInputs else images


@cache
def exported(made, kind):
    """A network and its file, made once: an ONNX export takes a second."""
    torch.manual_seed(0)
    module = made()
    return module, encoded(module, example(made)(2), available(kind))


def reopened(made, kind):
    return available(kind).reopen(exported(made, kind)[1])


FORMS = [Net, Named, Mapping, Pair, Starred, Counting, TwoInputs]


@pytest.mark.parametrize(
    ("made", "kind"), [*((made, "pt2") for made in FORMS), *((made, "onnx") for made in (Net, TwoInputs))]
)
def test_the_file_gives_the_logits_of_any_batch(made, kind):
    (module, data), draw = exported(made, kind), example(made)
    module.train()
    assert checked(data, available(kind), module, [draw(1), draw(5)]) <= 1e-6
    assert module.training
    network = reopened(made, kind)
    for count in (1, 2, 7):
        x = draw(count)
        with torch.no_grad():
            truth = logits(module.eval(), x)
        assert torch.allclose(network(*tensors(x)), truth, rtol=0, atol=1e-6 * float(truth.abs().max()))


@formats
def test_one_sample_at_a_time_gives_the_same(kind):
    network, x = reopened(Net, kind), images(4)
    alone = torch.cat([network(one[None]) for one in x])
    assert torch.allclose(network(x), alone, rtol=1e-5, atol=1e-6)
    assert torch.allclose(network(head(x, 3)), alone[:3], rtol=1e-5, atol=1e-6)


@formats
def test_same_network_same_bytes_and_nothing_of_this_machine_in_them(kind):
    module, data = exported(Net, kind)
    assert data == encoded(module, images(2), available(kind))
    assert __file__.encode() not in data
    assert b"relu().mean" not in data  # the line above


def test_onnx_names_inputs_outputs_and_the_batch():
    import onnxruntime  # noqa: PLC0415 - loaded only where ONNX is used

    session = onnxruntime.InferenceSession(exported(TwoInputs, "onnx")[1])
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("tokens", ["batch", 6], "tensor(int64)"),
        ("weights", ["batch", 6], "tensor(float)"),
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["batch", 3])]
    session = onnxruntime.InferenceSession(exported(Named, "onnx")[1])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("image", ["batch", 2, 5, 5])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["batch", 3])]


def test_pt2_says_which_batches_it_takes():
    program = torch.export.load(io.BytesIO(exported(Net, "pt2")[1]))
    (allowed,) = program.range_constraints.values()
    assert allowed.lower == 1
    assert allowed.upper > 10**9


@formats
def test_nothing_is_said_on_the_way(kind, capfd):
    module = Net()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        checked(encoded(module, images(2), available(kind)), available(kind), module, [images(1)])
    assert told == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (Looping, r"Looping works for one batch size only.*x\.shape\[0\]"),
        (Branching, "cannot trace Branching: .*data-dependent"),
    ],
)
def test_a_network_that_cannot_be_traced_is_told_without_noise(made, text, capfd):
    with pytest.raises(ArchitectureError, match=text):
        encoded(made(), images(2), available("pt2"))
    assert capfd.readouterr() == ("", "")


def test_inputs_that_do_not_fit_are_told():
    with pytest.raises(ArchitectureError, match=r"cannot export Net: RuntimeError: .*3 channels"):
        encoded(Net(), torch.randn(2, 3, 5, 5), available("pt2"))


def test_an_operation_that_onnx_lacks_is_named():
    class Eigen(Net):
        def forward(self, image):
            return super().forward(image) * torch.linalg.eigvals(self.head.weight[:, :3]).real.sum()

    assert encoded(Eigen(), images(2), available("pt2"))
    with pytest.raises(ArchitectureError, match=r"cannot export Eigen: .*linalg_eig"):
        encoded(Eigen(), images(2), available("onnx"))


def test_weights_beyond_what_onnx_holds_are_refused(monkeypatch):
    monkeypatch.setattr(export, "ONNX_LIMIT", 100)
    with pytest.raises(ArchitectureError, match=r"holds 2 GiB.*export to pt2"):
        encoded(Net(), images(2), available("onnx"))


def test_an_unknown_format_is_refused():
    with pytest.raises(ConfigError, match="expected one of pt2, onnx, got tflite"):
        available("tflite")


def test_onnx_without_its_packages(monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else sys)
    with pytest.raises(ConfigError, match=r'onnx needs onnxruntime; pip install "infprune\[onnx\]"'):
        available("onnx")
    assert available("pt2")


def changed(kind, change):
    """The format, with files that compute something else."""
    right = available(kind)

    def reopen(data):
        network = right.reopen(data)
        return lambda *x: change(network(*x))

    return replace(right, reopen=reopen)


@formats
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda y: y + 1e-3 * y.abs().max(), "largest relative error 1.0e-03"),
        (lambda y: y * torch.nan, "largest relative error inf"),
        (lambda y: y[:, :2], r"returns \(1, 2\), expected \(1, 3\)"),
        (lambda y: y[:1].expand(len(y), 3) if len(y) > 1 else y, "largest relative error"),
        (lambda y: y.reshape(7), "does not run: RuntimeError"),
    ],
)
def test_a_file_that_computes_something_else_is_noticed(kind, change, text):
    module, data = exported(Net, kind)
    with pytest.raises(QualityError, match=text):
        checked(data, changed(kind, change), module, [images(1), images(5)])


def test_the_error_is_relative_to_the_largest_logit_and_the_worst_of_all_batches():
    module, data = exported(Net, "pt2")
    loose = replace(changed("pt2", lambda y: y + 0.01 * len(y) * y.abs().max()), tolerance=1.0)
    assert checked(data, loose, module, [images(5), images(1)]) == pytest.approx(0.05, rel=1e-4)


def test_a_network_without_finite_outputs_is_no_truth():
    data, module = exported(Net, "pt2")[1], Net()
    nn.init.constant_(module.head.bias, torch.nan)
    with pytest.raises(InputError, match="not finite"):
        checked(data, available("pt2"), module, [images(1)])
