"""Five plain convolutions for 28x28 images (736 channels), the small AlexNet of the MNIST measurements."""

from torch import Tensor, nn

WIDTHS = (32, 64, 128, 256, 256)
POOLED = (0, 1, 4)  # 28 -> 13 -> 6 -> 2


class AlexNet5(nn.Module):
    """Convolutions with ReLU, no normalisation and no dropout, then two linear layers."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for index, width in enumerate(WIDTHS):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            if index in POOLED:
                layers.append(nn.MaxPool2d(3, stride=2))
            inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(inputs * 2 * 2, 512), nn.ReLU(), nn.Linear(512, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, 28, 28) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def alexnet5(num_classes: int = 10, in_channels: int = 1) -> AlexNet5:
    """Return the five-convolution network for 28x28 images: 1,507,850 parameters."""
    return AlexNet5(num_classes, in_channels)
