"""Training without one sample, without moving any other: Eq. 4 of MS."""

from torch import Tensor, nn
from torch.nn import functional as F

from infprune.forward import Inputs, logits
from infprune.training import Plugin


class LeftOut(Plugin):
    r"""Trains on :math:`G - \tfrac1m g(z)`: the loss of every batch less 1/m of a sample's own (Eq. 4, eps = -1/m).

    Batches stay what they are with the sample, so that two runs differ by its effect alone; drawing them anew without
    it would change what every batch holds, which moves the weights more than one sample of thousands does.

    Args:
        x: the sample's inputs, as a batch of one.
        y: its label `(1,)`.
        weight: 1/m.
    """

    def __init__(self, x: Inputs, y: Tensor, weight: float) -> None:
        self._x, self._y, self._weight = x, y, weight
        self._module: nn.Module | None = None

    def logits(self, module: nn.Module, x: Inputs) -> Tensor:
        """Run the network on a training batch."""
        self._module = module
        return super().logits(module, x)

    def penalty(self) -> Tensor:
        """The sample's own loss, with the negative weight."""
        assert self._module is not None
        return -self._weight * F.cross_entropy(logits(self._module, self._x), self._y)
