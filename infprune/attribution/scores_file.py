"""Files of sample scores: safetensors with a JSON manifest, no pickle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from infprune.artifacts import NOTHING, SCHEMA, Beside, manifest_of, read_file, sealed
from infprune.attribution.contract import SampleScores
from infprune.errors import InputError
from infprune.files import atomic_writes

DETAIL = "detail."


class SampleScoresManifest(BaseModel):
    """What a file of sample scores says about itself.

    `samples`: of the whole training part, which `indices` point into; `scored`: how many have a score. `base_sha256`:
    of the network's tensors, null where no trained network was looked at. `config`: that of the scoring. `sha256`: as
    in `infprune.artifacts.Manifest`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    kind: str = "sample-scores"
    method: str
    unit: str
    meaning: str
    groups: list[str]
    facts: dict[str, Any]
    data_sha256: str
    samples: int
    scored: int
    base_sha256: str | None
    seed: int
    config: dict[str, Any]
    sha256: str | None = None


def write_sample_scores(
    path: Path,
    scores: SampleScores,
    *,
    samples: int,
    base_sha256: str | None,
    seed: int,
    config: Mapping[str, Any],
    beside: Beside = NOTHING,
) -> None:
    """Write scores, atomically, and the files `beside` them: all, or on a failure none."""
    manifest = SampleScoresManifest(
        method=scores.method,
        unit=scores.unit,
        meaning=scores.meaning,
        groups=list(scores.groups),
        facts=dict(scores.facts),
        data_sha256=scores.data_sha256,
        samples=samples,
        scored=len(scores.indices),
        base_sha256=base_sha256,
        seed=seed,
        config=dict(config),
    )
    found = {"indices": scores.indices, "scores": scores.scores, "labels": scores.labels}
    found |= {f"{DETAIL}{name}": t.double() for name, t in scores.details.items()}
    plain = {name: t.detach().cpu().contiguous() for name, t in found.items()}
    atomic_writes({path: sealed(plain, manifest), **beside})


def read_sample_scores(path: Path) -> tuple[SampleScores, SampleScoresManifest]:
    """Read a file of sample scores.

    Raises:
        InputError: missing, damaged, or not such a file.
    """
    found, text = read_file(path)
    manifest = manifest_of(SampleScoresManifest, "sample-scores", text, found, path)
    missing = [name for name in ("indices", "scores", "labels") if name not in found]
    if missing:
        raise InputError(f"{path}: it holds no {missing[0]}; score again")
    indices, scores, labels = found["indices"], found["scores"], found["labels"]
    shape = (manifest.scored, *([len(manifest.groups)] if manifest.groups else []))
    if tuple(scores.shape) != shape or not scores.is_floating_point() or not bool(torch.isfinite(scores).all()):
        raise InputError(f"{path}: expected finite scores of shape {shape}, got {tuple(scores.shape)}; score again")
    for name, t in (("indices", indices), ("labels", labels)):
        if t.dtype != torch.int64 or t.shape != (manifest.scored,):
            raise InputError(f"{path}: its {name} do not fit its {manifest.scored} scores; score again")
    if not manifest.scored or int(indices.min()) < 0 or int(indices.max()) >= manifest.samples:
        raise InputError(f"{path}: expected indices in 0..{manifest.samples - 1}; score again")
    if not bool((indices[1:] > indices[:-1]).all()):
        raise InputError(f"{path}: expected ascending indices without repetition; score again")
    details = {name.removeprefix(DETAIL): t for name, t in found.items() if name.startswith(DETAIL)}
    if any(t.shape != (manifest.scored,) for t in details.values()):
        raise InputError(f"{path}: its details do not fit its {manifest.scored} scores; score again")
    made = SampleScores(
        manifest.method,
        manifest.unit,
        manifest.meaning,
        indices,
        scores.double(),
        labels,
        manifest.data_sha256,
        tuple(manifest.groups),
        details,
        manifest.facts,
    )
    return made, manifest
