"""Read weights from a file, without executing any of it, and put them into a network."""

import hashlib
import mmap
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from infprune.errors import InputError
from infprune.imports import one_line
from infprune.models.seal import KEY, check, parsed

WRAPPERS = ("state_dict", "model_state_dict", "model", "ema")
PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, training frameworks
COUNTER = "num_batches_tracked"  # of a batch norm; unused at inference and absent from old files
SHOWN = 3
NESTED = 8  # wrapper dictionaries


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a checkpoint, on the CPU, without wrapper dictionaries and common prefixes.

    ``.safetensors`` is read as such, anything else as a PyTorch file of plain tensors.

    Raises:
        InputError: the file is missing, corrupt, a pickle that needs code, or holds no tensors.
    """
    content = _unwrapped(_read(path))
    tensors = {str(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no named tensors; save model.state_dict() there")
    prefix = _shared_prefix(tensors)
    return {key.removeprefix(prefix): value for key, value in tensors.items()}


def read_pickle(path: Path, device: str | torch.device = "cpu") -> Any:
    """Return what a PyTorch file holds; of its code nothing runs, and it takes no more memory than it is long.

    Raises:
        Exception: it is damaged, or asks for either; any type.
    """
    if not path.is_file():  # a device may have no end
        raise FileNotFoundError(path)
    _refuse_bombs(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the pickle protocol: the outcome is told by who reads
        return torch.load(path, map_location=device, weights_only=True)


def verify_sums(path: Path) -> None:
    """Compare every member of a PyTorch file with its checksum, which `torch.load` does not look at.

    Raises:
        Exception: one differs, or it is no archive; any type.
    """
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise UnpicklingError(f"{damaged} is damaged")


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy all tensors into the parameters and buffers of the same name; on failure the module stays as it was.

    Batch-norm counters may be missing; ``source`` names the tensors' origin in messages.

    Raises:
        InputError: names or shapes differ, or a value is NaN or infinite.
    """
    expected = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    prefix, own = _shared_prefix(tensors), _shared_prefix(expected)
    tensors = _tied(expected, {own + key.removeprefix(prefix): value for key, value in tensors.items()})
    faults = _mismatches(expected, tensors)
    if faults:
        raise InputError(
            f"{source} is a checkpoint of another architecture: {'; '.join(faults)}; correct model.name or model.args"
        )
    for key, value in tensors.items():
        if not _finite(value, expected[key].dtype):
            raise InputError(f"{source}: tensor {key} holds NaN or inf; use a checkpoint from before the divergence")
    module.load_state_dict(tensors, strict=False)  # strict by the checks above, except for the counters


def plain_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return a network's tensors as they are written: on the CPU, contiguous, each tied one under its first name."""
    unique = {_place(value): name for name, value in reversed(module.state_dict().items()) if value.numel()}
    return {
        name: _alone(value.detach().cpu().contiguous())
        for name, value in module.state_dict().items()
        if not value.numel() or unique[_place(value)] == name
    }


def _place(value: Tensor) -> tuple[object, ...]:
    """Where a tensor lies, and how: the same for those that are tied; a view of a part of one has another shape."""
    return value.data_ptr(), value.shape, value.stride(), value.dtype


def _alone(value: Tensor) -> Tensor:
    """A tensor in memory of its own, as safetensors wants it."""
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()


def digest(module: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors and their names, whatever file they came from."""
    return hashlib.sha256(save(dict(sorted(plain_tensors(module).items())))).hexdigest()


def _tied(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors that the module ties back under all their names."""
    full = dict(tensors)
    for name, value in expected.items():
        if name not in full and value.numel():
            twins = (other for other, t in expected.items() if _place(t) == _place(value) and other in tensors)
            if twin := next(twins, None):
                full[name] = full[twin]
    return full


def _read(path: Path) -> Mapping[Any, Any]:
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        content = read_pickle(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"no checkpoint file at {path}; correct model.checkpoint") from error
    except InputError:
        raise
    except UnpicklingError as error:
        raise InputError(f"{path} refused: {_needs_code(error)}; re-save its state_dict as .safetensors") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path} is truncated or no checkpoint ({one_line(error)}); fetch or save it again") from error
    return content if isinstance(content, Mapping) else {}


def _safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file; those of one that infprune wrote are held against its checksum."""
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(KEY)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    if text is not None:
        check(tensors, parsed(text, path), path)
    return tensors


def _refuse_bombs(path: Path) -> None:
    """Refuse files that take memory out of proportion to their length: `torch.save` writes none of this.

    Members that are compressed or overlap, and `bytearray(n)`, which torch's unpickler allows.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if compressed or sum(member.file_size for member in members) > path.stat().st_size:
            raise UnpicklingError("its members are compressed")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"\nbytearray\n") >= 0:
            raise UnpicklingError("GLOBAL builtins.bytearray")


def _unwrapped(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    for _ in range(NESTED):  # a pickle can hold itself
        wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            break
        content = content[wrapper]
    return content


def _needs_code(error: UnpicklingError) -> str:
    name = re.search(r"GLOBAL (\S+)", str(error))
    if name:
        return f"loading it would execute code ({name[1]})"
    if "compressed" in str(error):
        return "its members are compressed, which torch.save does not do"
    return "it is damaged, or a pickle whose loading would execute code"


def _shared_prefix(keys: Iterable[str]) -> str:
    """Return the longest chain of known prefixes that all keys begin with."""
    names, prefix = list(keys), ""
    while names and (found := next((p for p in PREFIXES if all(n.startswith(prefix + p) for n in names)), None)):
        prefix += found
    return prefix


def _mismatches(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    missing = [key for key in expected if key not in tensors and not key.endswith(COUNTER)]
    unexpected = [key for key in tensors if key not in expected]
    shapes = [
        f"{key}: file {_shape(tensors[key])}, model {_shape(value)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    dtypes = [
        f"{key}: file {str(tensors[key].dtype).removeprefix('torch.')}"
        for key, value in expected.items()
        if key in tensors and tensors[key].is_complex() and not value.is_complex()
    ]
    faults = (("missing", missing), ("unexpected", unexpected), ("shapes", shapes), ("number formats", dtypes))
    return [f"{what} {_first(items)}" for what, items in faults if items]


def _finite(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether the values are finite numbers of the type that the network holds them in."""
    return not dtype.is_floating_point or bool(torch.isfinite(tensor.to(dtype)).all())


def _shape(tensor: Tensor) -> str:
    return "(" + ",".join(map(str, tensor.shape)) + ")"


def _first(items: list[str]) -> str:
    rest = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + rest
