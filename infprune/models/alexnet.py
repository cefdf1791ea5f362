"""Plain convolutions for 28x28 images, five or eleven of them: the small AlexNets of the MNIST measurements."""

from collections.abc import Container, Sequence

from torch import Tensor, nn

HIDDEN = 512


class AlexNet(nn.Module):
    """3x3 convolutions with ReLU, no normalisation and no dropout, then two linear layers.

    A 3x3 pooling of stride 2 follows each convolution in ``pooled``, three in all: 28 -> 13 -> 6 -> 2 pixels.
    """

    def __init__(self, widths: Sequence[int], pooled: Container[int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for index, width in enumerate(widths):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            if index in pooled:
                layers.append(nn.MaxPool2d(3, stride=2))
            inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(inputs * 2 * 2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, 28, 28) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def alexnet5(num_classes: int = 10, in_channels: int = 1) -> AlexNet:
    """Return the five-convolution network for 28x28 images: 736 channels, 1,507,850 parameters."""
    return AlexNet((32, 64, 128, 256, 256), (0, 1, 4), num_classes, in_channels)


def alexnet11(num_classes: int = 10, in_channels: int = 1) -> AlexNet:
    """Return the eleven-convolution network for 28x28 images: 736 channels, 782,458 parameters.

    Torch's own initial weights have variance 1 / (3 fan-in): the signal shrinks by the root of 6 in each ReLU layer,
    which eleven without normalisation do not survive. Here it is 2 / fan-in (He et al. 2015, equation 10).
    """
    widths = (16, 16, 32, 32, 64, 64, 64, 64, 128, 128, 128)
    network = AlexNet(widths, (1, 3, 10), num_classes, in_channels)
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network
