"""What a layer writes in one network and reads in another, layer after layer, while the second one is being changed."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from infprune.errors import ArchitectureError
from infprune.forward import Inputs, head, run, size, tensors

Batches = Iterable[tuple[Inputs, Tensor]]
MEMORY = 4 << 30  # bytes that paused passes may hold; beyond it, passes are run anew for every layer
BATCHES = 64  # each costs two threads
LIVE = 4  # largest activations assumed alive at the same time in a network (input, output, shortcut, spare)


class Pairs(Protocol):
    """Gives, for one module, the dense network's outputs and the small network's inputs of every batch."""

    def of(self, name: str, calls: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield `(batch, output of the dense module, input of the small one)`, for each of the module's calls."""


@contextmanager
def lockstep(dense: nn.Module, small: nn.Module, names: Sequence[str], batches: Batches) -> Iterator[Pairs]:
    """Open both networks over the batches.

    One forward pass per batch and network runs in a thread that waits at each of `names`, so that the small network
    continues with the weights it has been given meanwhile: the whole sequence costs one pass. Where the waiting
    activations would not fit into `MEMORY`, passes are run anew for every module, up to it.

    Args:
        dense: gives outputs.
        small: gives inputs; may be changed between two modules.
        names: the modules, in the order they will be asked for, which is the order of execution.
        batches: calibration samples.
    """
    inputs = [x for x, _ in batches]
    live = LIVE * sum(_largest(network, inputs[0]) for network in (dense, small)) * sum(map(size, inputs))
    if live > MEMORY or len(inputs) > BATCHES:
        yield _Anew(dense, small, inputs)
        return
    with ExitStack() as stack:
        outputs = [stack.enter_context(_opened(dense, x)) for x in inputs]
        entries = [stack.enter_context(_opened(small, x)) for x in inputs]
        stack.enter_context(_watching(dense, names, "output"))
        stack.enter_context(_watching(small, names, "input"))
        yield _Paused(_Anew(dense, small, inputs), outputs, entries)


class _Stop(Exception):  # noqa: N818 - not an error: ends a forward pass that has given what was wanted
    """Nothing behind the watched layer is needed."""


class _Anew:
    """Runs both networks up to the module, for every module."""

    def __init__(self, dense: nn.Module, small: nn.Module, inputs: Sequence[Inputs]) -> None:
        self._dense, self._small, self._inputs = dense, small, inputs

    def of(self, name: str, calls: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        for i, x in enumerate(self._inputs):
            truths = _recorded(self._dense, name, x, calls, "output")
            found = _recorded(self._small, name, x, calls, "input")
            yield from ((i, y, x_small) for y, x_small in zip(truths, found, strict=True))


class _Paused:
    """Lets the waiting passes run on to the module; one that is called several times is run anew."""

    def __init__(self, anew: _Anew, outputs: Sequence["_Pass"], entries: Sequence["_Pass"]) -> None:
        self._anew, self._outputs, self._entries = anew, outputs, entries

    def of(self, name: str, calls: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        if calls > 1:
            for entry in self._entries:  # wait before the first call: its weight is about to change
                entry.reach(name)
            yield from self._anew.of(name, calls)
            return
        for i, (output, entry) in enumerate(zip(self._outputs, self._entries, strict=True)):
            yield i, output.reach(name), entry.reach(name)


class _Pass(threading.Thread):
    """A forward pass that waits at every watched module; only one thread runs at any time."""

    def __init__(self, network: nn.Module, x: Inputs) -> None:
        super().__init__(daemon=True)
        self._network, self._x = network, x
        self._go, self._arrived = threading.Semaphore(0), threading.Semaphore(0)
        self._at: tuple[str, Tensor] | None = None
        self._closed = False
        self._error: BaseException | None = None

    def run(self) -> None:
        self._go.acquire()
        try:
            if not self._closed:
                with torch.no_grad():
                    run(self._network, self._x)
        except _Stop:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
        self._at = None
        self._arrived.release()

    def pause(self, name: str, value: Tensor) -> None:
        """Hand a value over and wait; called by the hooks, in this thread."""
        self._at = (name, value)
        self._arrived.release()
        self._go.acquire()
        if self._closed:
            raise _Stop

    def reach(self, name: str) -> Tensor:
        """Run on to the named module; called by the thread that asks."""
        while True:
            self._go.release()
            self._arrived.acquire()
            if self._error is not None:
                raise self._error
            if self._at is None:
                raise ArchitectureError(f"{name} was not called where the exported graph calls it")
            if self._at[0] == name:
                return self._at[1]

    def close(self) -> None:
        """End the pass."""
        self._closed = True
        self._go.release()
        self.join()


@contextmanager
def _opened(network: nn.Module, x: Inputs) -> Iterator[_Pass]:
    started = _Pass(network, x)
    started.start()
    try:
        yield started
    finally:
        started.close()


@contextmanager
def _watching(network: nn.Module, names: Sequence[str], what: str) -> Iterator[None]:
    def visit(name: str, value: Tensor) -> None:
        current = threading.current_thread()
        if isinstance(current, _Pass):
            current.pause(name, value)

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(_hooked(network.get_submodule(name), what, lambda value, name=name: visit(name, value)))
        yield


@contextmanager
def _hooked(module: nn.Module, what: str, visit: Any) -> Iterator[None]:
    """Call `visit` with a module's input before each call, or with its output after it."""
    if what == "input":
        handle = module.register_forward_pre_hook(lambda _, args: visit(args[0]))
    else:
        handle = module.register_forward_hook(lambda _, __, y: visit(y))
    try:
        yield
    finally:
        handle.remove()


def _recorded(network: nn.Module, name: str, x: Inputs, calls: int, what: str) -> list[Tensor]:
    """Inputs or outputs of a module in one forward pass, which ends at its last call."""
    found: list[Tensor] = []

    def visit(value: Tensor) -> None:
        found.append(value.clone())
        if len(found) == calls:
            raise _Stop

    with _hooked(network.get_submodule(name), what, visit), suppress(_Stop):
        run(network, x)
    return found


def _largest(network: nn.Module, x: Inputs) -> int:
    """Bytes per sample of the largest input or output of any module."""
    largest = 0

    def visit(value: Any) -> None:
        nonlocal largest
        if isinstance(value, Tensor):
            largest = max(largest, value[0].numel() * value.itemsize)

    for t in tensors(x):
        visit(t)
    with ExitStack() as stack:
        for module in network.modules():
            stack.enter_context(_hooked(module, "output", visit))
        run(network, head(x, 1))
    return largest
