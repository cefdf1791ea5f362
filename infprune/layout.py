"""The order of images in memory: the channels of a pixel side by side, where the network takes that."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from infprune.forward import Inputs, each, head, logits, tensors
from infprune.modes import evaluating

Arrange = Callable[[Inputs], Inputs]

TOLERANCE = 1e-3  # of the largest logit: between rounding and another result


def arranged(module: nn.Module, batches: Iterable[tuple[Inputs, Tensor]]) -> Iterator[tuple[Inputs, Tensor]]:
    """The batches as `module` runs fastest on them; see `arrangement`."""
    arrange: Arrange | None = None
    for x, y in batches:
        arrange = arrange or arrangement(module, x)
        yield arrange(x), y


def arrangement(module: nn.Module, example: Inputs) -> Arrange:
    """How to hand images to `module`: as they are, or in torch's channels_last format.

    Convolutions on CPUs are faster for it, and the operations behind them keep the format; values are the same but for
    rounding. A network that cannot take it (`view` across channels, say), or that answers the example otherwise then,
    gets its images as they are; so does one without convolutions, and one that is not on a CPU.

    Args:
        module: in any mode, which it keeps.
        example: a batch, of which two samples are tried in eval mode.
    """
    return _last if _wanted(module, example) and _same(module, head(example, 2)) else _unchanged


def _wanted(module: nn.Module, x: Inputs) -> bool:
    images = [t for t in tensors(x) if _image(t)]
    return bool(images) and any(isinstance(m, nn.Conv2d) for m in module.modules())


def _image(t: Tensor) -> bool:
    return t.dim() == 4 and t.dtype == torch.float32 and t.device.type == "cpu"


@torch.no_grad()
def _same(module: nn.Module, x: Inputs) -> bool:
    with evaluating(module), torch.random.fork_rng([]):
        usual = logits(module, x)
        try:
            found = logits(module, _last(x))
        except Exception:  # noqa: BLE001 - whatever the network's own code raises
            return False
    scale = float(usual.abs().max())
    return torch.allclose(found, usual, rtol=0.0, atol=TOLERANCE * scale)


def _last(x: Inputs) -> Inputs:
    return each(lambda t: t.contiguous(memory_format=torch.channels_last) if _image(t) else t, x)


def _unchanged(x: Inputs) -> Inputs:
    return x
