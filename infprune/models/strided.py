"""Four strided convolutions and a linear layer, for small images: the network of the unlearning measurements."""

from collections.abc import Sequence

from torch import Tensor, nn


class Strided(nn.Module):
    """3x3 convolutions of stride 2 with ReLU, no pooling and no normalisation: 28 -> 14 -> 7 -> 4 -> 2 pixels."""

    def __init__(self, num_classes: int, in_channels: int, widths: Sequence[int], size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for width in widths:
            layers += [nn.Conv2d(inputs, width, 3, stride=2, padding=1), nn.ReLU()]
            inputs, size = width, (size + 1) // 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs * size * size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, size, size) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def strided4(
    num_classes: int = 10, in_channels: int = 1, widths: Sequence[int] = (16, 32, 64, 64), size: int = 28
) -> Strided:
    """Return the network of strided convolutions: 62,794 parameters for 28x28 images at the default widths."""
    return Strided(num_classes, in_channels, widths, size)
