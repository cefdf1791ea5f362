"""Logistic regression: a linear network, whose loss is convex."""

from torch import Tensor, nn
from torch.nn import functional as F

from infprune.errors import ConfigError


class LogisticRegression(nn.Module):
    """Logits `[0, w.x + b]` for two classes, `W x + b` for more.

    Two classes need one row: only the difference of two logits matters, so a second row would add directions in which
    the cross-entropy is flat, and its Hessian would be singular. The softmax of more classes keeps them.
    """

    def __init__(self, in_features: int, num_classes: int, *, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 1 if num_classes == 2 else num_classes, bias)
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)  # the loss is convex: where training starts does not matter

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, ...) of in_features numbers each to logits (N, num_classes)."""
        z: Tensor = self.linear(x.flatten(1))
        return F.pad(z, (1, 0)) if self.linear.out_features == 1 else z


def logistic_regression(
    in_features: int,
    num_classes: int = 2,
    bias: bool = True,  # noqa: FBT001, FBT002 - a keyword of model.args
) -> LogisticRegression:
    """Return the linear classifier: in_features (+ 1) parameters for two classes, else num_classes times as many.

    Raises:
        ConfigError: fewer than two classes or one feature.
    """
    for name, value, least in (("in_features", in_features, 1), ("num_classes", num_classes, 2)):
        if not isinstance(value, int) or value < least:
            raise ConfigError(f"model.args.{name} of logistic_regression must be an integer >= {least}, got {value!r}")
    return LogisticRegression(in_features, num_classes, bias=bias)
