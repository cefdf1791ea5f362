"""What a result was made from, and what was asked of it."""

import platform
from pathlib import Path

import torch

from infprune import ranks
from infprune.config import PruneConfig
from infprune.files import sha256
from infprune.models.checkpoint import digest
from infprune.pipeline.bench import Bench
from infprune.pipeline.prune_results import Goal
from infprune.pipeline.results import Change, Provenance
from infprune.pipeline.session import provenance


def origins(bench: Bench, artifact: Path | None = None) -> Provenance:
    """Versions, seed, machine settings, data and digests of a run; `artifact` is the file that it wrote."""
    session, settings = bench.session, bench.session.config
    splits = session.splits
    return Provenance(
        versions=provenance(session)["versions"] | {"python": platform.python_version()},
        seed=settings.run.seed,
        device=str(session.device),
        threads=torch.get_num_threads(),
        precision=settings.run.precision,
        data=settings.data.model_dump(),
        samples={name: len(getattr(splits, name)) for name in ("train", "validation", "test")}
        | {"calibration": min(settings.data.calibration, len(splits.train))},
        base_sha256=digest(bench.dense),
        scores_sha256=sha256(settings.score.file) if settings.score.file else None,
        artifact_sha256=None if artifact is None or not ranks.leads() else sha256(artifact),
    )


def goals(prune: PruneConfig, rate: float, costs: dict[str, Change]) -> list[Goal]:
    """The budget that was configured, with what was achieved.

    Args:
        prune: asks.
        rate: the share of channels removed.
        costs: of the dense and the pruned network, by budget; where a share was asked, a share was achieved.
    """
    found = []
    if prune.rate is not None:
        found.append(Goal("rate", prune.rate, rate, rate <= prune.rate + 1e-9))
    for name, change in costs.items():
        asked: float | None = getattr(prune, name)
        if asked is not None:
            achieved = change.after / change.before if asked <= 1 else change.after
            found.append(Goal(name, asked, achieved, achieved <= asked))
    return found
