"""What an unlearning run works on: the session, the task, the network, and samples drawn from them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from infprune.artifacts import Manifest
from infprune.config import Config
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.data.dataset import Part, Samples
from infprune.data.loaders import Batches
from infprune.errors import ArchitectureError
from infprune.pipeline.artifact import open_artifact
from infprune.pipeline.forgetting import Task, open_task
from infprune.pipeline.session import Session, open_model, open_session


@dataclass(frozen=True)
class Workbench:
    """What an unlearning run works on; `described`: the manifest of a file that was given."""

    session: Session
    task: Task
    module: nn.Module
    space: ParameterSpace
    described: Manifest | None

    def batches(self, samples: Samples) -> Batches:
        """Batches of a size to differentiate."""
        return self.session.batches(samples, self.session.config.data.batch_size)

    def objective(self, samples: Samples) -> Objective:
        """The mean loss of some samples."""
        return Objective(self.module, self.space, list(self.batches(samples)))


def open_workbench(path: Path | None, settings: Config) -> Workbench:
    """Load data, the task and the network: a file, or the one that the configuration names.

    Raises:
        ConfigError: nothing is to be forgotten, or what the dataset cannot have.
        InputError: missing data, or no samples to forget, to keep, or to judge by.
        ArchitectureError: a pruned network is to be trained anew.
    """
    session = open_session(settings, "unlearn")
    task = open_task(session)
    task.exam("validation")  # refuse what cannot be judged before work begins
    if path is None:
        module, described = open_model(session), None
    else:
        loaded = open_artifact(path, session)
        module, described = loaded.module, loaded.manifest
        if settings.unlearn.retrain and described.kept:
            raise ArchitectureError(
                f"{path} is a pruned network: retraining from scratch is for whole ones; drop --retrain"
            )
    return Workbench(session, task.aimed(module), module, ParameterSpace.of(module), described)


def pool(task: Task) -> Samples:
    """The training samples that the Hessian is of: as they should have been learned, or as they were."""
    corrected = task.session.config.unlearn.hessian_of == "corrected"
    return task.aim if corrected else task.session.splits.train


def drawn(samples: Samples, count: int | None, seed: int) -> Part:
    """A random few; None: all of them."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return Part(samples, order[:count])


def staying(bench: Workbench, count: int) -> Part:
    """Some of the training samples that stay."""
    return drawn(Part(bench.session.splits.train, bench.task.rest), count, bench.session.config.run.seed)
