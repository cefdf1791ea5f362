"""A network as one file that runs without infprune, `.pt2` (torch.export) or ONNX, and the check of that file.

Either takes any number of samples and returns the logits.
"""

import inspect
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from infprune import forward
from infprune.errors import ArchitectureError, ConfigError, InputError, QualityError, out_of_memory
from infprune.forward import Inputs
from infprune.imports import one_line
from infprune.modes import evaluating
from infprune.progress import quiet

ONNX_LIMIT = 2**31 - 2**20  # protobuf's 2 GiB, less the graph


@dataclass(frozen=True)
class Traced:
    """A network as a graph; `names`: of its inputs, where they are known; `axes`: of their dynamic dimensions."""

    program: ExportedProgram
    names: list[str] | None
    axes: tuple[Any, ...]


@dataclass(frozen=True)
class Format:
    """`encode` makes the file, `reopen` a function of the inputs from it; `needs`: packages beyond the core.

    `tolerance`: largest |file - network| / max |network| over float32 logits.
    """

    tolerance: float
    encode: Callable[[Traced], bytes]
    reopen: Callable[[bytes], Callable[..., Any]]
    needs: tuple[str, ...] = ()


def available(name: str) -> Format:
    """Look up a format.

    Raises:
        ConfigError: unknown, or the packages it needs are not installed.
    """
    if name not in FORMATS:
        raise ConfigError(f"--format: expected one of {', '.join(FORMATS)}, got {name}")
    absent = [package for package in FORMATS[name].needs if find_spec(package) is None]
    if absent:
        raise ConfigError(f'{name} needs {" and ".join(absent)}; pip install "infprune[{name}]"')
    return FORMATS[name]


def encoded(module: nn.Module, example: Inputs, format_: Format) -> bytes:
    """The network in eval mode as the bytes of a file, traced on `example`, a batch of at least two samples.

    Raises:
        ArchitectureError: it cannot be traced, works for one batch size only, or does not fit the format.
    """
    with evaluating(module), quiet():
        try:
            return format_.encode(_traced(module, example))
        except Exception as error:
            if isinstance(error, ArchitectureError) or out_of_memory(error):
                raise
            while error.__cause__ is not None:  # torch wraps what went wrong in advice on how to report it
                error = error.__cause__  # type: ignore[assignment]
            raise ArchitectureError(f"cannot export {type(module).__name__}: {one_line(error)}") from error


@torch.no_grad()
def checked(data: bytes, format_: Format, module: nn.Module, inputs: Sequence[Inputs]) -> float:
    """Reopen a file and return its largest relative error: max |file - network| / max |network| over the logits.

    Raises:
        QualityError: it cannot be run, or the error exceeds the tolerance.
        InputError: the network itself returns NaN or infinity.
    """
    with evaluating(module), quiet():
        truths = [forward.logits(module, x) for x in inputs]
        if not all(bool(torch.isfinite(truth).all()) for truth in truths):
            raise InputError("the network's outputs on random inputs are not finite; check its weights")
        try:
            network = format_.reopen(data)
            found = [network(*forward.tensors(x)) for x in inputs]
        except Exception as error:
            raise QualityError(f"the exported file does not run: {one_line(error)}") from error
    for y, truth in zip(found, truths, strict=True):
        if y.shape != truth.shape:
            raise QualityError(f"the exported file returns {tuple(y.shape)}, expected {tuple(truth.shape)}")
    worst = max(map(_relative_error, found, truths))
    if worst > format_.tolerance:
        raise QualityError(
            "the exported file differs from the network: "
            f"largest relative error {worst:.1e}, allowed {format_.tolerance:.0e}"
        )
    return worst


def _relative_error(found: Tensor, truth: Tensor) -> float:
    scale = truth.abs().max().clamp_min(torch.finfo(truth.dtype).tiny)
    return float(((found - truth).abs().max() / scale).nan_to_num(torch.inf))


class _Logits(nn.Module):
    """A network that returns a tuple, mapping or object, or takes `*inputs`, as one that returns the logits."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *x: Tensor) -> Any:
        return forward.picked(self.module(*x))


@torch.no_grad()
def _plain(module: nn.Module, example: Inputs) -> bool:
    return isinstance(forward.run(module, example), Tensor)


def _traced(module: nn.Module, example: Inputs) -> Traced:
    inputs = forward.tensors(example)
    names = _names(module, len(inputs))
    wrapped = names is None or not _plain(module, example)
    network = _Logits(module) if wrapped else module

    def axes(batch: Any) -> tuple[Any, ...]:
        each = tuple({0: batch} for _ in inputs)
        return (each,) if wrapped else each

    faults = []
    for strict in (False, True):  # strict follows `len(x)` and `int(x.shape[0])`, which otherwise fix the batch size
        try:
            program = torch.export.export(network, inputs, dynamic_shapes=axes(Dim("batch", min=1)), strict=strict)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # lines of the user's code and where it lies on this machine
            return Traced(program, names, axes("batch"))
        except Exception as error:
            if out_of_memory(error):
                raise
            faults.append(error)
    name = type(module).__name__
    if "Constraints violated (batch)" in str(faults[0]):
        raise ArchitectureError(
            f"{name} works for one batch size only: its code loops over the samples or holds their number; "
            "write it with x.shape[0]"
        ) from faults[0]
    raise ArchitectureError(f"cannot trace {name}: {one_line(faults[0])}") from faults[0]


def _names(module: nn.Module, count: int) -> list[str] | None:
    """What `forward` calls its inputs."""
    named = [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return named[:count] if len(named) >= count else None


def _encode_pt2(traced: Traced) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(traced.program, buffer)
    return buffer.getvalue()


def _reopen_pt2(data: bytes) -> Callable[..., Any]:
    return torch.export.load(io.BytesIO(data)).module()


def _encode_onnx(traced: Traced) -> bytes:
    size = sum(t.nbytes for t in traced.program.state_dict.values())
    if size > ONNX_LIMIT:
        raise ArchitectureError(f"an ONNX file holds 2 GiB, the weights take {size / 2**30:.1f}; export to pt2")
    made = torch.onnx.export(
        traced.program,
        dynamo=True,
        verbose=False,
        input_names=traced.names,
        output_names=["logits"],
        dynamic_shapes=traced.axes,
    )
    assert made is not None
    data: bytes = made.model_proto.SerializeToString()
    return data


def _reopen_onnx(data: bytes) -> Callable[..., Any]:
    import onnxruntime  # noqa: PLC0415 - an optional extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [described.name for described in session.get_inputs()]

    def call(*x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, dict(zip(names, (t.numpy() for t in x), strict=True)))[0])

    return call


FORMATS: dict[str, Format] = {
    "pt2": Format(1e-5, _encode_pt2, _reopen_pt2),
    "onnx": Format(1e-4, _encode_onnx, _reopen_onnx, needs=("onnx", "onnxscript", "onnxruntime")),
}
