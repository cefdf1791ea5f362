"""`infprune validate`: Theorem 1 against retraining, for random groups of parameters (MU section 5.1, figure 1)."""

import hashlib
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from infprune import __version__
from infprune.config import Config
from infprune.curvature.algebra import Dense
from infprune.curvature.ggn import ggn
from infprune.curvature.objective import Objective
from infprune.data.subset_file import outline
from infprune.errors import ConfigError
from infprune.influence.evaluation_change import evaluation_change
from infprune.influence.groups import Group, random_groups
from infprune.influence.printed import correlation_load
from infprune.influence.retraining import minimise
from infprune.models.checkpoint import digest
from infprune.pipeline.agreement import agreement
from infprune.pipeline.influence_results import FormRow, Panel, ValidateResult
from infprune.pipeline.instrument import Lens, Problem, open_problem, through_weights
from infprune.pipeline.memory import within_memory
from infprune.pipeline.stopwatch import Stopwatch
from infprune.pipeline.store import Store
from infprune.progress import Bar, Progress

SLACK = 1e-9  # relative: what rounding may put a bracket beside the exact value


@dataclass(frozen=True)
class Validation:
    """The result, and the points behind it, for the figures."""

    result: ValidateResult
    panels: list[Panel]


@within_memory
def run(settings: Config, progress: Progress, *, resume: bool) -> Validation:
    """Fit, predict and retrain every group; each finished size is stored, and `resume` skips those.

    Raises:
        ConfigError: the network cannot be fitted, or is too large for Newton's method.
    """
    if settings.influence.space == "gates":
        raise ConfigError("influence.space: validate retrains weights, got gates; use weights or auto")
    watch = Stopwatch()
    problem = open_problem(settings, "validate", watch, fit=True)
    with watch.stage("curvature"):
        lens = through_weights(problem)
    session, sizes = problem.session, list(dict.fromkeys(settings.retrain.sizes))
    samples = [(problem.fitting(x), y) for x, y in session.batches(session.splits.test)]
    test = replace(problem.objective, batches=samples, ridge=0.0)
    panels, rows, missed = [], [], 0
    drawn = {s: _groups(problem, s) for s in sizes}
    valid = partial(_valid, problem.objective.space.size, {len(groups) for groups in drawn.values()})
    store = Store(session.folder / "retrained.json", _identity(problem), resume=resume, valid=valid)
    with watch.stage("retrain"), progress.bar("validate", sum(map(len, drawn.values()))) as bar:
        for share, groups in drawn.items():
            stored = store.get(str(share))
            if stored is None:
                stored = [_retrained(problem.objective, lens, test, group, share, bar) for group in groups]
                store.put(str(share), stored)
            else:
                for _ in groups:
                    bar.advance("resumed")
            good = [(g, s) for g, s in zip(groups, stored, strict=True) if s["converged"]]
            missed += len(groups) - len(good)
            panel, found = _compared(lens, test, share, good, settings.retrain.forms)
            panels.append(panel)
            rows += found
    session.record()
    theta = problem.objective.theta
    result = ValidateResult(
        model=session.model_name,
        data=session.data_name,
        curvature=lens.described,
        train_loss=problem.objective.value(theta),
        test_loss=test.value(theta),
        rows=rows,
        unconverged=missed,
        seconds=watch.seconds,
        files=[],
        run_dir=str(session.folder),
    )
    return Validation(result, panels)


def _groups(problem: Problem, share: float) -> list[Group]:
    settings = problem.session.config
    return random_groups(problem.objective.space.size, share, settings.retrain.groups, settings.run.seed)


def _retrained(
    objective: Objective, lens: Lens, test: Objective, group: Group, share: float, bar: Bar
) -> dict[str, Any]:
    """Retrain without a group, from where the exact block form says the minimum is."""
    theta = objective.theta
    start = theta + lens.removal(group.positions, "block").shift.to(theta)
    found = minimise(objective, start, group.positions)
    bar.advance(f"{share:.0%} of the parameters")
    return {
        "converged": found.converged,
        "change": found.value - objective.value(theta),
        "test": test.value(found.theta) - test.value(theta),
        "shift": (found.theta - theta).tolist(),
    }


def _valid(size: int, counts: Collection[int], value: Any) -> bool:
    """Whether a value that was read back is what `_retrained` tells, of as many groups as a share has."""
    return isinstance(value, list) and len(value) in counts and all(_told(size, group) for group in value)


def _told(size: int, value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"converged", "change", "test", "shift"}:
        return False
    good, shift = value["converged"], value["shift"]
    if type(good) is not bool or not isinstance(shift, list) or len(shift) != size:
        return False
    numbers = (value["change"], value["test"], *shift)
    return all(type(v) in (int, float) and (math.isfinite(v) or not good) for v in numbers)


def _compared(
    lens: Lens,
    test: Objective,
    share: float,
    measured: list[tuple[Group, dict[str, Any]]],
    forms: Sequence[str],
) -> tuple[Panel, list[FormRow]]:
    theta = lens.quadratic.theta
    groups = [group for group, _ in measured]
    removed = torch.zeros(len(groups), len(theta), dtype=torch.bool)
    for i, group in enumerate(groups):
        removed[i, group.positions] = True
    as_tensor = {key: torch.tensor([s[key] for _, s in measured], dtype=torch.float64) for key in ("change", "test")}
    actual = torch.tensor([s["shift"] for _, s in measured], dtype=torch.float64).reshape(len(groups), len(theta))
    loads = [correlation_load(lens.quadratic, g.positions.to(theta.device)) for g in groups]
    known = [load for load in loads if load is not None]
    slope, bend = test.gradient(test.theta), Dense(ggn(test).to_dense())
    shifts, changes, rows = {}, {}, []
    for form in forms:
        made = [lens.removal(g.positions, form) for g in groups]
        shifts[form] = torch.stack([m.shift.cpu().double() for m in made]) if made else torch.zeros_like(actual)
        changes[form] = torch.tensor([m.change for m in made], dtype=torch.float64)
        finite = torch.isfinite(changes[form])
        predicted = torch.tensor([evaluation_change(slope, m.shift) for m in made], dtype=torch.float64)
        curved = torch.tensor([evaluation_change(slope, m.shift, bend) for m in made], dtype=torch.float64)
        kept = ~removed & finite[:, None]
        rows.append(
            FormRow(
                form=form,
                share=share,
                parameters=len(groups[0].positions) if groups else 0,
                groups=len(groups),
                loss=agreement(changes[form][finite], as_tensor["change"][finite]),
                kept=agreement(shifts[form][kept], actual[kept]),
                kept_r_mean=_mean(
                    [agreement(p[k], a[k]).r for p, a, k in zip(shifts[form], actual, kept, strict=True)]
                ),
                everything=agreement(shifts[form][finite].flatten(), actual[finite].flatten()),
                test=agreement(predicted[finite], as_tensor["test"][finite]),
                test_second=agreement(curved[finite], as_tensor["test"][finite]),
                infinite=int((~finite).sum()),
                contained=_contained(lens, groups, made) if form == "bracket" else None,
                load=_mean(known) if known else None,
            )
        )
    panel = Panel(share, removed, actual, as_tensor["change"], shifts, changes)
    return panel, rows


def _contained(lens: Lens, groups: list[Group], made: list[Any]) -> int:
    """Brackets that hold the exact block value."""
    count = 0
    for group, bounds in zip(groups, made, strict=True):
        exact = lens.removal(group.positions, "block").change
        count += bounds.low <= exact * (1 + SLACK) and exact <= bounds.high * (1 + SLACK)
    return count


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _identity(problem: Problem) -> str:
    settings = problem.session.config.model_dump()
    content = {key: settings[key] for key in ("model", "influence")}
    content["data"] = [problem.session.data_identity, outline(problem.session.splits.test)]
    content |= {"groups": settings["retrain"]["groups"], "seed": settings["run"]["seed"]}
    content |= {"weights": digest(problem.module), "versions": [__version__, torch.__version__]}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
