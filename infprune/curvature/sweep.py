"""One pass over the calibration data: one forward, one backward per kind of label; observers listen through hooks."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from infprune.curvature.losses import CROSS_ENTROPY, Loss, drawn
from infprune.errors import InputError
from infprune.forward import Inputs, each, logits
from infprune.modes import computing, evaluating

Batches = Iterable[tuple[Inputs, Tensor]]


class LabelSource(StrEnum):
    """Whose labels the loss is taken at."""

    MODEL = "model"  # drawn from the model's own prediction: second moment of the gradients = Fisher
    EXACT = "exact"  # the root of the loss's curvature, one pass per output: second moment summed over them = GGN
    DATA = "data"  # the true ones: first-order influence


class Observer:
    """Listens to the pass. Gradients are those of the sum of the sample losses, so a sample's own gradient is unscaled.

    `labels`: the kind of backward pass it needs, or None. `weights`: whether it needs weight gradients. `outputs`: the
    modules whose output values it needs.
    """

    labels: LabelSource | None = None
    weights: bool = False
    outputs: Collection[str] = ()

    def forward(self, name: str, module: nn.Module, x: Tensor) -> None:
        """See the input of a watched module."""

    def input_gradient(self, name: str, module: nn.Module, x: Tensor, gradient: Tensor) -> None:
        """See an input with the gradient that flows back through this module alone."""

    def output_gradient(self, name: str, module: nn.Module, y: Tensor | None, gradient: Tensor) -> None:
        """See the gradient at a watched module's output; `y` is the output if `outputs` names the module."""

    def batch(self, samples: int, gradients: Mapping[str, Tensor]) -> None:
        """End a batch: number of samples, and the weight gradients (summed over them) if asked for."""


class Sweep:
    """The pass over the data, with the hooks it needs.

    Gradients flow back to the first watched modules, not to the network's inputs, which may be token ids.
    """

    def __init__(
        self,
        module: nn.Module,
        watched: Sequence[str],
        observers: Sequence[Observer],
        loss: Loss = CROSS_ENTROPY,
        precision: str = "float32",
    ) -> None:
        self._module = module
        self._precision = precision
        self._loss = loss
        self._watched = watched
        self._observers = observers
        self._listening: Sequence[Observer] = ()
        self._sources: list[Tensor] = []  # of this batch: where gradients end, besides the weights
        self._inner = {n for n in watched if not isinstance(module.get_submodule(n), nn.Embedding)}

    def run(self, batches: Batches, *, seed: int, draws: int, before: Sequence[int] = ()) -> None:
        """Visit the batches in eval mode; parameters, gradients and modes are left as they were.

        Args:
            batches: pairs `(x, y)` on the module's device; see `forward.logits` for what the module may return.
            seed: of the labels drawn from the model.
            draws: labels drawn per sample for `LabelSource.MODEL`; how the samples are batched does not change them.
            before: sizes of the batches that lower ranks visit: what is drawn for them is passed over here.

        Raises:
            ArchitectureError: no logits `(N, classes)` among the outputs.
            InputError: the network's outputs are not finite.
        """
        generator = torch.Generator().manual_seed(seed)
        needs_weights = any(o.weights for o in self._observers)
        weights = dict(self._module.named_parameters()) if needs_weights else {}
        wanted = {o.labels for o in self._observers}
        gradients = _requiring_grad(self._module, needed=needs_weights)
        with evaluating(self._module), torch.enable_grad(), gradients, self._hooked():
            for x, y in batches:
                self._sources = []
                with computing(self._precision, y.device):
                    z = _whole(logits(self._module, each(Tensor.detach, x)))
                if not bool(torch.isfinite(z).all()):
                    raise InputError("the outputs of the network are not finite; check weights and data for NaN")
                for observer in self._observers:
                    if observer.labels is None:
                        observer.batch(len(y), {})
                before = self._passed_over(before, z, generator, draws)
                slopes = list(self._slopes(z, y, wanted, generator, draws))
                for i, (kind, slope) in enumerate(slopes):
                    self._backward(z, slope, kind, weights, last=i + 1 == len(slopes))

    def _passed_over(self, sizes: Sequence[int], z: Tensor, generator: torch.Generator, draws: int) -> Sequence[int]:
        """Draw labels for batches of these sizes and forget them; nothing is left to pass over."""
        if any(o.labels is LabelSource.MODEL for o in self._observers):
            for size in sizes:
                drawn(self._loss, z.new_zeros(size, z.shape[1]), generator, draws)
        return ()

    def _slopes(
        self, z: Tensor, y: Tensor, wanted: Collection[LabelSource | None], generator: torch.Generator, draws: int
    ) -> Iterator[tuple[LabelSource, Tensor]]:
        """What flows into the outputs in each backward pass: the slope of the loss, or a column of its root."""
        if LabelSource.MODEL in wanted:
            for labels in drawn(self._loss, z, generator, draws):
                yield LabelSource.MODEL, self._slope(z, labels)
        if LabelSource.EXACT in wanted:
            for column in self._loss.root(z):
                yield LabelSource.EXACT, column
        if LabelSource.DATA in wanted:
            yield LabelSource.DATA, self._slope(z, y)

    def _slope(self, z: Tensor, y: Tensor) -> Tensor:
        """D l_n / d z_n, `(N, K)`."""
        z = z.detach().requires_grad_()
        found: Tensor = torch.autograd.grad(self._loss(z, y).sum(), z)[0]
        return found

    def _backward(
        self, z: Tensor, slope: Tensor, kind: LabelSource, weights: Mapping[str, Tensor], *, last: bool
    ) -> None:
        self._listening = [o for o in self._observers if o.labels is kind]
        if not any(o.weights for o in self._listening):  # the few that an input of a watched module may hang on
            weights = {name: p for name, p in weights.items() if name.rpartition(".")[0] not in self._inner}
        targets = [*self._sources, *weights.values()]
        gradients: Sequence[Tensor | None] = [None] * len(targets)
        if z.requires_grad and targets:  # else no watched module has been called
            gradients = torch.autograd.grad(z, targets, slope, retain_graph=not last, allow_unused=True)
        of_weights = zip(weights, gradients[len(self._sources) :], strict=True)
        named = {name: g for name, g in of_weights if g is not None}
        for observer in self._listening:
            observer.batch(len(slope), named)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        handles = []
        for name in self._watched:
            for module in sharing(self._module, name):
                handles.append(module.register_forward_pre_hook(self._before(name)))
                handles.append(module.register_forward_hook(self._after(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = args[0]
            if not x.requires_grad and x.is_floating_point():
                x = x.detach().requires_grad_()
                self._sources.append(x)
            x = x.view_as(x)  # a node of its own: its gradient is what flows through this module alone
            value = x.detach()  # a hook that holds x itself would be a cycle, whose memory waits for the collector
            with computing("float32", x.device):
                for observer in self._observers:
                    observer.forward(name, module, _whole(value))
            if x.requires_grad and any(type(o).input_gradient is not Observer.input_gradient for o in self._observers):
                x.register_hook(lambda g: self._tell_input(name, module, value, g))  # type: ignore[no-untyped-call]
            return (x, *args[1:])

        return hook

    def _after(self, name: str) -> Any:
        keeps = any(name in o.outputs for o in self._observers)

        def hook(module: nn.Module, _: Any, y: Tensor) -> Tensor:
            if not y.requires_grad:  # a table of weights that nothing differentiates
                y = y.detach().requires_grad_()
                self._sources.append(y)
                y = y.view_as(y)
            if any(type(o).output_gradient is not Observer.output_gradient for o in self._observers):
                value = y.detach().clone() if keeps else None  # what follows may work in place
                y.register_hook(lambda g: self._tell_output(name, module, value, g))  # type: ignore[no-untyped-call]
            return y

        return hook

    def _tell_input(self, name: str, module: nn.Module, x: Tensor, gradient: Tensor) -> None:
        for observer in self._listening:
            observer.input_gradient(name, module, _whole(x), _whole(gradient))

    def _tell_output(self, name: str, module: nn.Module, y: Tensor | None, gradient: Tensor) -> None:
        for observer in self._listening:
            observer.output_gradient(name, module, None if y is None else _whole(y), _whole(gradient))


def _whole(t: Tensor) -> Tensor:
    """A tensor that products and sums are taken of: half formats are for the network's own work."""
    return t.float() if t.dtype is torch.bfloat16 else t


def sharing(network: nn.Module, name: str) -> list[nn.Module]:
    """The modules that hold the weight of the named one: itself, and others it is tied to."""
    weight = network.get_submodule(name).weight
    return [m for m in network.modules() if getattr(m, "weight", None) is weight]


@contextmanager
def _requiring_grad(module: nn.Module, *, needed: bool) -> Iterator[None]:
    """Weight gradients cost a third of a pass: switch them off unless someone needs them."""
    flags = [(p, p.requires_grad) for p in module.parameters()]
    try:
        for p, _ in flags:
            p.requires_grad_(needed)
        yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)
