"""What a layer writes in one network and reads in another, layer after layer, while the second one is being changed."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from infprune.errors import ArchitectureError
from infprune.forward import Inputs, head, run, size, tensors

Batches = Iterable[tuple[Inputs, Tensor]]
MEMORY = 4 << 30  # bytes that paused passes may hold; beyond it, passes are run anew for every layer
BATCHES = 64  # each costs two threads
LIVE = 5  # largest activations assumed alive at the same time in a network (input, output, shortcut, sum, spare)
ADDITIONS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})


@dataclass(frozen=True)
class Pair:
    """What refits a module on one batch: `x`, its input in the small network, and `y`, its output in the dense one.

    Where that output, past a norm of its own, is a term of a sum, what matters is the sum: `y` is then the dense
    network's sum and `other` the small network's other term.
    """

    batch: int
    x: Tensor
    y: Tensor
    other: Tensor | None = None


class Pairs(Protocol):
    """Gives, for one module, what it writes in the dense network and reads in the small one, for every batch."""

    def of(self, name: str, calls: int) -> Iterator[Pair]:
        """Yield one pair for each of the module's calls."""


@contextmanager
def lockstep(dense: nn.Module, small: nn.Module, ends: Mapping[str, str | None], batches: Batches) -> Iterator[Pairs]:
    """Open both networks over the batches.

    One forward pass per batch and network runs in a thread that waits at each module, so that the small network
    continues with the weights it has been given meanwhile: the whole sequence costs one pass. Where the waiting
    activations would not fit into `MEMORY`, passes are run anew for every module, up to it.

    Args:
        dense: gives outputs.
        small: gives inputs; may be changed between two modules.
        ends: the modules in the order they will be asked for, which is the order of execution, each with the module
            whose output is looked for in sums: itself, the norm that alone reads it, or None.
        batches: calibration samples.
    """
    inputs = [x for x, _ in batches]
    summed = _summed(small, ends, head(inputs[0], 2))
    watched = {name: ends[name] if name in summed else None for name in ends}
    live = LIVE * sum(_largest(network, inputs[0]) for network in (dense, small)) * sum(map(size, inputs))
    with ExitStack() as stack:
        stack.enter_context(_watching(dense, watched))
        stack.enter_context(_watching(small, watched))
        anew = _Anew(dense, small, inputs, summed)
        if live > MEMORY or len(inputs) > BATCHES:
            yield anew
            return
        writers = [stack.enter_context(_opened(_Writer(dense, x, summed))) for x in inputs]
        readers = [stack.enter_context(_opened(_Reader(small, x, ends, summed))) for x in inputs]
        yield _Paused(anew, writers, readers)


class _Stop(Exception):  # noqa: N818 - not an error: ends a forward pass that has given what was wanted
    """Nothing behind the watched layer is needed."""


class _Listener:
    """Hears what happens at the watched modules in one forward pass."""

    deaf = False

    def __init__(self) -> None:
        self.tail: tuple[str, Tensor] | None = None  # the last output that may become a term of a sum

    def entered(self, name: str, x: Tensor) -> None:
        """A module is called."""

    def left(self, name: str, y: Tensor) -> None:
        """A module has an output."""

    def ended(self, name: str, y: Tensor) -> None:
        """The module behind it that makes the term of the sum has an output."""
        self.tail = (name, y)

    def added(self, name: str, term: Tensor, other: Tensor) -> Tensor:
        """That output is about to be added to something; gives what is added instead."""
        del name, other
        return term


class _Additions(TorchFunctionMode):
    """Tells a listener of sums."""

    def __init__(self, listener: _Listener) -> None:
        super().__init__()
        self._listener = listener

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        tail = self._listener.tail
        plain = not kwargs and len(args) == 2 and getattr(function, "__name__", "") in ADDITIONS
        if tail is not None and plain and all(isinstance(t, Tensor) for t in args) and args[0].shape == args[1].shape:
            name, term = tail
            for i in (0, 1):
                if args[i] is term:
                    self._listener.tail = None
                    new = self._listener.added(name, term, args[1 - i])
                    return function(*((new, args[1]) if i == 0 else (args[0], new)))
        return function(*args, **(kwargs or {}))


_here = threading.local()  # .listener: of the pass that runs in this thread


def _heard(network: nn.Module, x: Inputs, listener: _Listener) -> None:
    """Run a pass; `_Stop` ends it."""
    _here.listener = listener
    try:
        with suppress(_Stop), torch.no_grad(), _Additions(listener):
            run(network, x)
    finally:
        _here.listener = None


@contextmanager
def _watching(network: nn.Module, ends: Mapping[str, str | None]) -> Iterator[None]:
    def tell(what: str, name: str, value: Tensor) -> None:
        listener = getattr(_here, "listener", None)
        if listener is not None and not listener.deaf:
            getattr(listener, what)(name, value)

    with ExitStack() as stack:
        for name, end in ends.items():
            stack.enter_context(_hooked(network, name, "input", lambda value, name=name: tell("entered", name, value)))
            stack.enter_context(_hooked(network, name, "output", lambda value, name=name: tell("left", name, value)))
            if end is not None:
                stack.enter_context(
                    _hooked(network, end, "output", lambda value, name=name: tell("ended", name, value))
                )
        yield


class _Probe(_Listener):
    """Finds the modules whose output is next added to something, before another one is called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._calls: list[str] = []
        self._last: tuple[Tensor, int] | None = None

    def entered(self, name: str, x: Tensor) -> None:
        self._calls.append(name)
        self._last = (x, x._version)  # noqa: SLF001 - torch's own count of in-place changes

    def added(self, name: str, term: Tensor, other: Tensor) -> Tensor:
        assert self._last is not None
        untouched = self._last[0]._version == self._last[1]  # noqa: SLF001
        if self._calls[-1] == name and self._calls.count(name) == 1 and untouched:
            self.found.add(name)
        return super().added(name, term, other)


def _summed(network: nn.Module, ends: Mapping[str, str | None], x: Inputs) -> frozenset[str]:
    probe = _Probe()
    with _watching(network, ends):
        _heard(network, x, probe)
    return frozenset(name for name in probe.found if ends[name] is not None)


class _Record(_Listener):
    """Keeps what one module reads and writes until its last call, or its sum."""

    def __init__(self, name: str, calls: int, summed: frozenset[str]) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.others: list[Tensor | None] = []
        self._name, self._calls, self._summed = name, calls, summed

    def entered(self, name: str, x: Tensor) -> None:
        if name == self._name:
            self.inputs.append(x.clone())

    def left(self, name: str, y: Tensor) -> None:
        if name == self._name and name not in self._summed:
            self._keep(y.clone(), None)

    def added(self, name: str, term: Tensor, other: Tensor) -> Tensor:
        if name == self._name:
            self._keep(term + other, other.clone())
        return super().added(name, term, other)

    def _keep(self, y: Tensor, other: Tensor | None) -> None:
        self.outputs.append(y)
        self.others.append(other)
        if len(self.outputs) == self._calls:
            raise _Stop


class _Anew:
    """Runs both networks up to the module, for every module."""

    def __init__(self, dense: nn.Module, small: nn.Module, inputs: Sequence[Inputs], summed: frozenset[str]) -> None:
        self._dense, self._small, self._inputs, self._summed = dense, small, inputs, summed

    def of(self, name: str, calls: int) -> Iterator[Pair]:
        for i, x in enumerate(self._inputs):
            truths, found = (_Record(name, calls, self._summed) for _ in range(2))
            _heard(self._dense, x, truths)
            _heard(self._small, x, found)
            for entry, y, other in zip(found.inputs, truths.outputs, found.others, strict=True):
                yield Pair(i, entry, y, other)


class _Paused:
    """Lets the waiting passes run on to the module; one that is called several times is run anew."""

    def __init__(self, anew: _Anew, writers: Sequence["_Pass"], readers: Sequence["_Pass"]) -> None:
        self._anew, self._writers, self._readers = anew, writers, readers

    def of(self, name: str, calls: int) -> Iterator[Pair]:
        if calls > 1:
            for reader in self._readers:  # wait before the first call: its weight is about to change
                reader.reach(name)
            yield from self._anew.of(name, calls)
            return
        for i, (writer, reader) in enumerate(zip(self._writers, self._readers, strict=True)):
            [y], [x, *other] = writer.reach(name), reader.reach(name)
            yield Pair(i, x, y, *other)


class _Pass(_Listener, threading.Thread, ABC):
    """A forward pass that waits at every watched module; only one thread runs at any time."""

    def __init__(self, network: nn.Module, x: Inputs, summed: frozenset[str]) -> None:
        threading.Thread.__init__(self, daemon=True)
        _Listener.__init__(self)
        self._network, self._x, self._summed = network, x, summed
        self._go, self._arrived = threading.Semaphore(0), threading.Semaphore(0)
        self._at: tuple[str, tuple[Tensor, ...]] | None = None
        self._closed = False
        self._error: BaseException | None = None

    @abstractmethod
    def added(self, name: str, term: Tensor, other: Tensor) -> Tensor:
        """Wait at a sum."""

    def run(self) -> None:
        self._go.acquire()
        try:
            if not self._closed:
                _heard(self._network, self._x, self)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
        self._at = None
        self._arrived.release()

    def pause(self, name: str, *values: Tensor) -> None:
        """Hand values over and wait; called in this thread."""
        self._at = (name, values)
        self._arrived.release()
        self._go.acquire()
        if self._closed:
            raise _Stop

    def reach(self, name: str) -> tuple[Tensor, ...]:
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


class _Writer(_Pass):
    """The dense network's pass: waits with the output, or with the sum."""

    def left(self, name: str, y: Tensor) -> None:
        if name not in self._summed:
            self.pause(name, y)

    def added(self, name: str, term: Tensor, other: Tensor) -> Tensor:
        self.pause(name, term + other)
        return term


class _Reader(_Pass):
    """The small network's pass: waits with the input, before the module uses it.

    At a sum it waits with the input and the other term; the module, changed meanwhile, is then called again.
    """

    def __init__(self, network: nn.Module, x: Inputs, ends: Mapping[str, str | None], summed: frozenset[str]) -> None:
        super().__init__(network, x, summed)
        self._ends = ends
        self._input: Tensor | None = None

    def entered(self, name: str, x: Tensor) -> None:
        if name in self._summed:
            self._input = x
        else:
            self.pause(name, x)

    def added(self, name: str, term: Tensor, other: Tensor) -> Tensor:
        assert self._input is not None
        x, end = self._input, self._ends[name]
        self.pause(name, x, other)
        self.deaf = True
        term = self._network.get_submodule(name)(x)
        if end is not None and end != name:
            term = self._network.get_submodule(end)(term)
        self.deaf, self._input = False, None
        return term


@contextmanager
def _opened(started: "_Pass") -> Iterator["_Pass"]:
    started.start()
    try:
        yield started
    finally:
        started.close()


@contextmanager
def _hooked(network: nn.Module, name: str, what: str, visit: Any) -> Iterator[None]:
    """Call `visit` with a module's input before each call, or with its output after it."""
    module = network.get_submodule(name)
    if what == "input":
        handle = module.register_forward_pre_hook(lambda _, args: visit(args[0]))
    else:
        handle = module.register_forward_hook(lambda _, __, y: visit(y))
    try:
        yield
    finally:
        handle.remove()


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
        for name, _ in network.named_modules():
            stack.enter_context(_hooked(network, name, "output", visit))
        run(network, head(x, 1))
    return largest
