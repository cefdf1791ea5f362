"""VGG with batch norm for 32x32 images: convolutions of Simonyan & Zisserman 2015, Table 1, and one linear layer."""

from collections.abc import Sequence

from torch import Tensor, nn

# Widths of the convolutions between two poolings (columns A and D of the table).
VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class CifarVGG(nn.Module):
    """Stages of 3x3 convolution, batch norm and ReLU, each closed by a 2x2 pooling."""

    def __init__(self, stages: Sequence[Sequence[int]], num_classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for stage in stages:
            for width in stage:
                # The batch norm subtracts any bias of the convolution.
                layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, 32, 32) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def vgg11_bn(num_classes: int = 10, in_channels: int = 3) -> CifarVGG:
    """Return the network with 8 convolutions."""
    return CifarVGG(VGG11, num_classes, in_channels)


def vgg16_bn(num_classes: int = 10, in_channels: int = 3) -> CifarVGG:
    """Return the network with 13 convolutions."""
    return CifarVGG(VGG16, num_classes, in_channels)
