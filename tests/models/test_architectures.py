import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from infprune import models
from infprune.models import MODELS, SHIPPED
from infprune.models.cifar_resnet import ZeroPadShortcut

# name: (input shape, parameters; counted by hand from the papers' tables)
EXPECTED = {
    "digits_resnet": ((1, 8, 8), 222_570),
    "alexnet5": ((1, 28, 28), 1_507_850),
    "alexnet11": ((1, 28, 28), 782_458),
    "resnet20": ((3, 32, 32), 269_722),
    "resnet32": ((3, 32, 32), 464_154),
    "resnet44": ((3, 32, 32), 658_586),
    "resnet56": ((3, 32, 32), 853_018),
    "resnet110": ((3, 32, 32), 1_727_962),
    "vgg11_bn": ((3, 32, 32), 9_228_362),
    "vgg16_bn": ((3, 32, 32), 14_724_042),
    "logistic_regression": ((30,), 310),
    "strided4": ((1, 28, 28), 62_794),
    "tanh_cnn": ((1, 28, 28), 62_346),
}
NEEDED = {"logistic_regression": {"in_features": 30}}


def test_table_is_complete():
    assert EXPECTED.keys() == MODELS.keys()
    assert SHIPPED.keys() <= MODELS.keys()
    assert {path.suffix for path in SHIPPED.values()} == {".safetensors"}


@pytest.mark.parametrize("name", MODELS)
def test_size_and_shape(name):
    shape, parameters = EXPECTED[name]
    model = MODELS[name](num_classes=7, **NEEDED.get(name, {})).eval()
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    assert sum(p.numel() for p in model.parameters()) + 3 * (last.in_features + 1) == parameters
    torch.nn.init.normal_(last.weight)  # logistic_regression starts at zero
    with torch.no_grad():
        logits = model(torch.rand(2, *shape))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("name", ["digits_resnet", "alexnet5", "alexnet11", "resnet20", "vgg11_bn"])
def test_other_input_channels(name):
    model = MODELS[name](in_channels=2).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 2, *EXPECTED[name][0][1:])).shape == (1, 10)


def test_digits_resnet_file_stays_under_a_megabyte(tmp_path):
    save_file(MODELS["digits_resnet"]().state_dict(), tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").stat().st_size < 1_000_000


def test_alexnet5_has_the_736_channels_of_the_measurements():
    features = MODELS["alexnet5"]().features
    assert sum(m.out_channels for m in features if isinstance(m, torch.nn.Conv2d)) == 736
    assert features(torch.rand(1, 1, 28, 28)).shape == (1, 256, 2, 2)


def test_alexnet5_keeps_its_parameter_names():
    names = [f"features.{i}.{kind}" for i in (0, 3, 6, 8, 10) for kind in ("weight", "bias")]
    names += [f"classifier.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")]
    assert list(MODELS["alexnet5"]().state_dict()) == names


def test_alexnet11_has_eleven_convolutions_and_as_many_channels():
    features = MODELS["alexnet11"]().features
    widths = [m.out_channels for m in features if isinstance(m, torch.nn.Conv2d)]
    assert (len(widths), sum(widths)) == (11, 736)
    assert features(torch.rand(1, 1, 28, 28)).shape == (1, 128, 2, 2)


def test_alexnet11_starts_with_a_signal_that_reaches_the_end():
    """With torch's own initial weights, images differ by 5e-5 behind the last convolution, and nothing is learnt."""
    network, x = MODELS["alexnet11"](), torch.randn(32, 1, 28, 28)
    deepest = network.features[20]
    assert deepest.weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.02)
    assert not deepest.bias.any()
    with torch.no_grad():
        assert 0.1 < network.features(x).std(0).mean() < 3
        for layer in network.features:
            if isinstance(layer, torch.nn.Conv2d):
                layer.reset_parameters()
        assert network.features(x).std(0).mean() < 1e-4


def test_zero_pad_shortcut_subsamples_and_pads_both_sides():
    x = torch.arange(1.0, 33.0).view(1, 2, 4, 4)
    out = ZeroPadShortcut(1)(x)
    assert out.shape == (1, 4, 2, 2)
    assert not out[0, [0, 3]].any()
    assert out[0, 1].tolist() == [[1, 3], [9, 11]]
    assert out[0, 2].tolist() == [[17, 19], [25, 27]]


def test_cifar_resnet_starts_with_kaiming_normal_weights():
    torch.manual_seed(0)
    weight = MODELS["resnet20"]().layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)


def test_shipped_weights_lie_in_the_package():
    package = Path(models.__file__).parent
    assert [path.parent for path in SHIPPED.values()] == [package / "weights"] * len(SHIPPED)
