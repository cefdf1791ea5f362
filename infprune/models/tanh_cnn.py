"""Two convolutions and one linear layer, with tanh: the network of the multi-stage measurements (MS, table A)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from infprune.errors import ConfigError


class TanhCNN(nn.Module):
    """Convolution, tanh, 2x2 pooling, twice: the embedding; then one linear layer."""

    def __init__(self, sizes: Sequence[int], kernel: int, padding: int, pixels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.Tanh(), nn.MaxPool2d(2)]
            pixels = (pixels + 2 * padding - kernel + 1) // 2
        if pixels < 1:
            raise ConfigError("tanh_cnn: nothing is left of the image; lower model.args.kernel or raise padding")
        self.embedding = nn.Sequential(*layers)
        self.linear = nn.Linear(sizes[-1] * pixels**2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, pixels, pixels) to logits (N, num_classes)."""
        logits: Tensor = self.linear(self.embedding(x).flatten(1))
        return logits


def tanh_cnn(
    num_classes: int = 10,
    in_channels: int = 1,
    widths: Sequence[int] = (32, 64),
    kernel: int = 5,
    padding: int = 0,
    pixels: int = 28,
) -> TanhCNN:
    """Return table A's network for MNIST, 62,346 parameters; the paper does not tell its padding."""
    return TanhCNN((in_channels, *widths), kernel, padding, pixels, num_classes)
