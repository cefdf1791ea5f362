"""Whole architectures at small inputs, with signals of order one everywhere, and their couplings, made once.

    network, example, coupling = coupled(name)        # name: a key of ARCHITECTURES, SLOW or CASES

Shared between tests: nobody may change them. `example` has 4 samples (6 in CASES).
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torchvision import models as vision

from cases import CASES
from infprune.coupling.couple import couple
from infprune.coupling.groups import Coupling
from infprune.models import MODELS

Build = tuple[Callable[[], nn.Module], tuple[int, ...]]


def _resnext() -> nn.Module:
    return vision.ResNet(vision.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10, groups=8, width_per_group=4)


def _densenet() -> nn.Module:
    return vision.DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=10)


def _mobilenet() -> nn.Module:
    setting = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]  # expansion, width, blocks, stride
    return vision.MobileNetV2(num_classes=10, inverted_residual_setting=setting)


ARCHITECTURES: dict[str, Build] = {
    "resnet18": (lambda: vision.resnet18(num_classes=10), (3, 32, 32)),
    "mobilenet_v2": (_mobilenet, (3, 32, 32)),
    "densenet": (_densenet, (3, 32, 32)),
    "shufflenet_v2": (lambda: vision.ShuffleNetV2([2, 2, 2], [24, 32, 48, 64, 96], num_classes=10), (3, 32, 32)),
    "resnext": (_resnext, (3, 32, 32)),
    "resnet20": (MODELS["resnet20"], (3, 32, 32)),
    "alexnet5": (MODELS["alexnet5"], (1, 28, 28)),
    "cifar vgg11_bn": (MODELS["vgg11_bn"], (3, 32, 32)),
    "digits_resnet": (MODELS["digits_resnet"], (1, 8, 8)),
}

SLOW: dict[str, Build] = {
    "resnet50": (lambda: vision.resnet50(num_classes=10), (3, 64, 64)),
    "densenet121": (lambda: vision.densenet121(num_classes=10), (3, 64, 64)),
    "mobilenet_v2 of full size": (lambda: vision.mobilenet_v2(num_classes=10), (3, 64, 64)),
    "shufflenet_v2 of full size": (lambda: vision.shufflenet_v2_x0_5(num_classes=10), (3, 64, 64)),
    "vgg16_bn": (lambda: vision.vgg16_bn(num_classes=10), (3, 64, 64)),
}


@cache
def coupled(name: str) -> tuple[nn.Module, Tensor, Coupling]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        if name in CASES:
            module, example = CASES[name]()
        else:
            build, shape = (ARCHITECTURES | SLOW)[name]
            module, example = build(), torch.randn(4, *shape)
            enliven(module, torch.randn(8, *shape))
        return module, example, couple(module, example)


def enliven(module: nn.Module, x: Tensor) -> None:
    """Give fresh weights a scale that keeps signals alive, and batch norms the statistics of `x`.

    Untrained deep networks return little more than their last bias: a wrong cut would hardly show.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.normal_(layer.bias, 0.0, 0.2)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0.0, 0.3)
            layer.momentum = 1.0
    module.train()
    with torch.no_grad():
        module(x)
    module.eval()


def random_masks(coupling: Coupling, seed: int, share: float = 0.6) -> dict[str, Tensor]:
    """Masks that keep a random `share` of each prunable layer, at least one channel and, where possible, not all."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for layer in coupling.prunable:
        mask = torch.rand(layer.size, generator=generator) < share
        order = torch.randperm(layer.size, generator=generator)
        mask[order[-1]] = False
        mask[order[0]] = True
        masks[layer.name] = mask
    return masks
