"""The layers of a network that a stage replaces, and those that it leaves alone."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import Tensor, nn

from infprune.errors import ArchitectureError, ConfigError
from infprune.forward import Inputs
from infprune.training import Plugin


def matching(module: nn.Module, patterns: Sequence[str], key: str) -> tuple[str, ...]:
    """Names of the modules that own parameters and match a pattern, themselves or by a module that holds them.

    Raises:
        ConfigError: a pattern matches nothing; the message has the closest names.
    """
    owners = [name for name, m in module.named_modules() if any(True for _ in m.parameters(recurse=False))]
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in owners):
            near = get_close_matches(pattern, owners, 3, 0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(owners[:5])}"
            raise ConfigError(f"{key}: no layer of the network matches {pattern!r}; {hint}")
    return tuple(name for name in owners if any(_matches(name, pattern) for pattern in patterns))


def head(module: nn.Module, patterns: Sequence[str] | None) -> tuple[tuple[str, ...], str]:
    """The layers of the head, and of them the linear one that makes the logits.

    Raises:
        ConfigError: a pattern matches nothing.
        ArchitectureError: none of them is linear.
    """
    linear = [name for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    chosen = linear[-1:] if patterns is None else matching(module, patterns, "trace.head")
    last = [name for name in linear if name in chosen]
    if not last:
        told = f"trace.head: none of {', '.join(chosen)} is linear" if chosen else "the network has no linear layer"
        raise ArchitectureError(
            f"{told}, so none can be replaced by one for the classes of each stage; expected a torch.nn.Linear that "
            "makes the logits"
        )
    return tuple(chosen), last[-1]


def renew(module: nn.Module, layers: Collection[str], last: str, classes: int) -> None:
    """Give the layers of the head new initial weights, and the last one as many outputs as there are classes.

    Raises:
        ArchitectureError: a layer does not know how to.
    """
    for name in layers:
        layer = module.get_submodule(name)
        if name == last:
            assert isinstance(layer, nn.Linear)
            new = nn.Linear(layer.in_features, classes, layer.bias is not None).to(layer.weight)
            owner, _, own = name.rpartition(".")
            setattr(module.get_submodule(owner), own, new.train(layer.training))
        elif callable(reset := getattr(layer, "reset_parameters", None)):
            reset()
        else:
            kind = type(layer).__name__
            raise ArchitectureError(f"trace.head: {name} ({kind}) has no reset_parameters; take it out of the head")


def owned(module: nn.Module, layers: Collection[str]) -> frozenset[str]:
    """Names of the parameters of some layers."""
    return frozenset(name for name, _ in module.named_parameters() if name.rpartition(".")[0] in layers)


@contextmanager
def held(module: nn.Module, parameters: Collection[str]) -> Iterator[None]:
    """Keep parameters out of training."""
    chosen = [p for name, p in module.named_parameters() if name in parameters]
    flags = [p.requires_grad for p in chosen]
    try:
        for p in chosen:
            p.requires_grad_(False)
        yield
    finally:
        for p, flag in zip(chosen, flags, strict=True):
            p.requires_grad_(flag)


class Still(Plugin):
    """Keeps layers in eval mode: the statistics of a held batch norm are held as well."""

    def __init__(self, layers: Collection[str]) -> None:
        self._layers = layers

    def logits(self, module: nn.Module, x: Inputs) -> Tensor:
        """Run the network on a training batch."""
        for name in self._layers:
            module.get_submodule(name).eval()
        return super().logits(module, x)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
