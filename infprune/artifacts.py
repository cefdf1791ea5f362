"""The files infprune writes: pruned models and scores, as safetensors with a JSON manifest. No pickle, ever."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from infprune.errors import ConfigError, InfpruneError, InputError
from infprune.files import atomic_writes
from infprune.models.attention import explicit
from infprune.models.build import build
from infprune.models.checkpoint import load_into, plain_tensors
from infprune.models.seal import KEY, SEAL, check, parsed, seal
from infprune.scores.contract import ChannelScores, Curve
from infprune.surgery import Kept, resized

SCHEMA = 1
REAL = (torch.float64, torch.float32)

Beside = Mapping[Path, str]
NOTHING: Beside = MappingProxyType({})


class InputSpec(BaseModel):
    """One argument of the network's `forward`: `shape` of one sample, `dtype` such as "float32"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: list[int]
    dtype: str


class Manifest(BaseModel):
    """What a pruned model file says about itself; everything needed to rebuild the network.

    `kept`: tensor name -> dimension -> positions that stayed. Accuracies and costs stand in `metrics`; nothing in it
    depends on the clock, so the same inputs give the same bytes. `sha256`: see `infprune.models.seal`; set on writing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    kind: str = "model"
    name: str | None
    factory: str | None
    args: dict[str, Any]
    kept: dict[str, dict[int, list[int]]]
    inputs: list[InputSpec]
    classes: int
    explicit_attention: bool = False
    base_sha256: str | None
    scores_sha256: str | None
    plan: dict[str, int]
    metrics: dict[str, str | float | list[str] | dict[str, float | None]]
    config: dict[str, dict[str, Any]]
    versions: dict[str, str]
    seed: int
    sha256: str | None = None


class CurveSpec(BaseModel):
    """What a layer loses at some widths, descending; see `infprune.scores.contract.Curve`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kept: list[int]
    loss: list[float]


class ScoresManifest(BaseModel):
    """What a scores file says about itself.

    `base_sha256`: the digest of the weights that were scored; `sha256`: as in `Manifest`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    kind: str = "scores"
    criterion: str
    unit: str
    base_sha256: str
    samples: int
    seed: int
    config: dict[str, Any]
    curves: dict[str, CurveSpec] = {}
    sha256: str | None = None


@dataclass(frozen=True)
class Loaded:
    """A rebuilt network and its manifest."""

    module: nn.Module
    manifest: Manifest


def write_model(path: Path, module: nn.Module, manifest: Manifest, beside: Beside = NOTHING) -> None:
    """Write a network and its manifest, atomically, and the files `beside` it: all, or on a failure none."""
    atomic_writes({path: sealed(plain_tensors(module), manifest), **beside})


def write_scores(path: Path, scores: ChannelScores, manifest: ScoresManifest, beside: Beside = NOTHING) -> None:
    """Write scores, one float64 tensor per layer, as `write_model` does; the curves stand in the manifest."""
    tensors = {name: v.contiguous() for name, v in scores.values.items()}
    curves = {name: CurveSpec(kept=list(c.kept), loss=list(c.loss)) for name, c in scores.curves.items()}
    told = manifest.model_copy(update={"curves": curves})
    atomic_writes({path: sealed(tensors, told), **beside})


def read_scores(path: Path) -> tuple[ChannelScores, ScoresManifest]:
    """Read a scores file.

    Raises:
        InputError: missing, damaged, or not a scores file.
    """
    tensors, text = read_file(path)
    manifest = manifest_of(ScoresManifest, "scores", text, tensors, path)
    for name, v in tensors.items():
        if v.dim() != 1 or v.dtype not in REAL or not bool(torch.isfinite(v).all()):
            raise InputError(f"{path}: the scores of {name} are not a finite vector; score again")
    for name, c in manifest.curves.items():
        widths = [len(tensors[name]) if name in tensors else 0, *c.kept, 0]
        if len(c.loss) != len(c.kept) or any(a <= b for a, b in pairwise(widths)):
            raise InputError(f"{path}: the curve of {name} does not fit its scores; score again")
    curves = {name: Curve(tuple(c.kept), tuple(c.loss)) for name, c in manifest.curves.items()}
    values = {name: v.double() for name, v in tensors.items()}
    return ChannelScores(manifest.criterion, manifest.unit, values, curves), manifest


def read_manifest(path: str | Path) -> Manifest:
    """Read the manifest of a pruned model.

    Raises:
        InputError: missing, damaged, or not a pruned model.
    """
    tensors, text = read_file(Path(path))
    return manifest_of(Manifest, "model", text, tensors, Path(path))


def load(path: str | Path, factory: str | None = None, device: str | torch.device = "cpu") -> Loaded:
    """Rebuild the network of a pruned model file, in eval mode.

    Built-in and torchvision networks need nothing else. A network from `pkg.mod:factory` is imported only if the
    caller names the same factory: a file cannot make this process run code.

    Raises:
        InputError: missing or damaged file, or its tensors do not fit its manifest.
        ConfigError: the file needs a factory that the caller did not name.
    """
    path = Path(path)
    tensors, text = read_file(path)
    manifest = manifest_of(Manifest, "model", text, tensors, path)
    if manifest.factory is not None and factory != manifest.factory:
        raise ConfigError(
            f"{path} was built by {manifest.factory}, which loading would import; "
            f"if you trust it, name it: factory={manifest.factory!r} or model.factory={manifest.factory}"
        )
    dense = build(manifest.name, manifest.factory, manifest.args)
    dense = explicit(dense) if manifest.explicit_attention else dense
    try:
        kept: Kept = {n: {d: torch.tensor(at) for d, at in dims.items()} for n, dims in manifest.kept.items()}
        module = resized(dense, kept)
    except (InfpruneError, ValueError, RuntimeError) as error:  # a position beyond int64 is torch's ValueError
        raise InputError(f"{path}: its manifest does not fit the network it names ({error})") from error
    load_into(module, tensors, str(path))
    return Loaded(module.to(device).eval(), manifest)


def sealed(tensors: dict[str, Tensor], manifest: BaseModel) -> bytes:
    """The bytes of a file, its seal in the manifest."""
    taken = seal(tensors, json.loads(manifest.model_dump_json()))
    told = manifest.model_copy(update={SEAL: taken})
    return bytes(save(tensors, metadata={KEY: told.model_dump_json()}))


def read_file(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file that infprune wrote, and the text of its manifest.

    Raises:
        InputError: missing, damaged, or without a manifest.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; give a file written by infprune")
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable safetensors file ({error}); it may be truncated, write it again"
        ) from error
    if text is None:
        raise InputError(
            f"{path}: a safetensors file without an infprune manifest; use model.checkpoint={path} for plain weights"
        )
    return tensors, text


M = TypeVar("M", bound=BaseModel)


def manifest_of(kind: type[M], word: str, text: str, tensors: Mapping[str, Tensor], path: Path) -> M:
    """The manifest in a text, which must call itself `word` and be the one that was written with the tensors.

    Raises:
        InputError: it is damaged, of another kind, or of another version.
    """
    content = parsed(text, path)
    found, version = content.get("kind"), content.get("schema_version")
    if found != word:
        raise InputError(f"{path}: expected a {word} file, got a {_word(found)} file")
    if version != SCHEMA:
        raise InputError(f"{path}: expected manifest schema {SCHEMA}, got {_word(version)}; update infprune")
    try:
        manifest = kind.model_validate(content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(f"{path}: its manifest is damaged at {where}; write it again") from error
    check(tensors, content, path)
    return manifest


def _word(value: object) -> str:
    """Show what a manifest says as one short word."""
    return str(value) if isinstance(value, int | str) and len(str(value)) < 40 else type(value).__name__
