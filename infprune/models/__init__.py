"""Networks: one architecture family per file; ``build`` takes a name from here or a ``pkg.mod:factory``."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from infprune.models.alexnet import alexnet5, alexnet11
from infprune.models.cifar_resnet import resnet20, resnet32, resnet44, resnet56, resnet110
from infprune.models.cifar_vgg import vgg11_bn, vgg16_bn
from infprune.models.digits_resnet import digits_resnet
from infprune.models.logistic_regression import logistic_regression
from infprune.models.strided import strided4
from infprune.models.tanh_cnn import tanh_cnn

MODELS: dict[str, Callable[..., nn.Module]] = {
    "digits_resnet": digits_resnet,
    "alexnet5": alexnet5,
    "alexnet11": alexnet11,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "vgg11_bn": vgg11_bn,
    "vgg16_bn": vgg16_bn,
    "logistic_regression": logistic_regression,
    "strided4": strided4,
    "tanh_cnn": tanh_cnn,
}

SHIPPED: dict[str, Path] = {
    "digits_resnet": Path(__file__).parent / "weights" / "digits_resnet.safetensors",
}
