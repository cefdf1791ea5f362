"""What an unlearning run leaves behind of every finished application, and how the next one takes it up."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from infprune import __version__
from infprune.errors import InputError
from infprune.models.checkpoint import digest
from infprune.pipeline.store import Store
from infprune.pipeline.unlearn_bench import Workbench
from infprune.pipeline.unlearn_results import Application, Quality, Trial

APPLICATIONS = "applications.json"


def weights_file(bench: Workbench, number: int) -> Path:
    """Where the weights after an application are."""
    return bench.session.folder / f"application-{number}.safetensors"


def taken_up(bench: Workbench, store: Store, number: int) -> dict[str, Any] | None:
    """A finished application; the weights it led to are loaded."""
    found: dict[str, Any] | None = store.get(str(number))
    path = weights_file(bench, number)
    if found is None or (found["application"]["length"] and not path.is_file()):
        return None
    if found["application"]["length"]:
        try:
            theta = load_file(path)["theta"]
            bench.space.load(bench.module, theta.to(bench.space.values(bench.module)))
        except Exception as error:  # whatever a damaged file raises
            raise InputError(f"cannot resume from {path}: it is damaged; delete it to start over") from error
    return found


def trials_of(found: Mapping[str, Any]) -> list[Trial]:
    """The step lengths that an application tried."""
    return [Trial(**t | {"quality": Quality(**t["quality"])}) for t in found["trials"]]


def valid(value: Any) -> bool:
    """Whether a value that was read back is what an application tells."""
    try:
        made = Application(**value["application"])
        numbers = [value["damping"], made.length, made.norm, made.residual, made.iterations]
        numbers += [v for t in trials_of(value) for v in (t.length, t.score, t.quality.kept, t.quality.membership)]
    except (KeyError, TypeError, AttributeError):
        return False
    return all(type(v) in (int, float) for v in numbers)


def identity(bench: Workbench) -> str:
    """What the applications depend on; those of another identity are not taken up."""
    settings = bench.session.config.model_dump()
    content = {key: settings[key] for key in ("model", "unlearn")} | {"seed": settings["run"]["seed"]}
    for key in ("finetune", "retrain", "forget"):  # what is measured beside it; a file may say something else by now
        content["unlearn"].pop(key)
    content |= {"data": bench.session.data_identity, "forget": bench.task.identity, "weights": digest(bench.module)}
    content["versions"] = [__version__, torch.__version__]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
