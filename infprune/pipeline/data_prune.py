"""`infprune data prune`: scores -> the training samples to keep, as a subset file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infprune.attribution.contract import SampleScores
from infprune.attribution.scores_file import SampleScoresManifest, read_sample_scores
from infprune.config import Config
from infprune.data.choosing import chosen
from infprune.data.subset_file import Subset, write_subset
from infprune.files import sha256
from infprune.pipeline.data_results import DataPruneResult, KeptRow
from infprune.progress import Progress


@dataclass(frozen=True)
class Scored:
    """A scores file that was read."""

    path: Path
    scores: SampleScores
    manifest: SampleScoresManifest

    def subset(self, keep: float, strategy: str, balance: str, seed: int) -> Subset:
        """The samples that a strategy keeps."""
        positions = chosen(self.scores.total, self.scores.labels, keep, strategy, balance, seed)
        made = {
            "method": self.scores.method,
            "strategy": strategy,
            "keep": keep,
            "balance": balance,
            "seed": seed,
            "scores_sha256": sha256(self.path),
        }
        return Subset(self.scores.indices[positions], self.manifest.samples, self.scores.data_sha256, made)


def read(path: Path) -> Scored:
    """Read a scores file of `data score`."""
    return Scored(path, *read_sample_scores(path))


def run(path: Path, settings: Config, progress: Progress) -> DataPruneResult:
    """Choose samples by the section `samples` and write the subset file. Needs neither data nor network."""
    del progress
    choice, found = settings.samples, read(path)
    subset = found.subset(choice.keep, choice.strategy, choice.balance, settings.run.seed)
    target = Path(settings.run.output or path.with_name("subset.json"))
    write_subset(target, subset)
    scores = found.scores
    stays = torch.isin(scores.indices, subset.indices)
    kept = scores.total[stays]
    return DataPruneResult(
        method=scores.method,
        strategy=choice.strategy,
        balance=choice.balance,
        asked=choice.keep,
        samples=len(scores.indices),
        kept=len(subset.indices),
        threshold=[float(kept.min()), float(kept.max())],
        classes=[_row(c, scores, stays) for c in torch.unique(scores.labels).tolist()],
        scores=str(path),
        subset=str(target),
    )


def _row(label: Any, scores: SampleScores, stays: torch.Tensor) -> KeptRow:
    mine = scores.labels == label
    return KeptRow(int(label), int(mine.sum()), int((mine & stays).sum()))
