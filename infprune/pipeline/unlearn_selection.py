"""Which weights unlearning may change: filters are measured on forgotten and on kept samples, and chosen."""

import torch
from torch import Tensor

from infprune.coupling.couple import couple
from infprune.curvature.products import filters
from infprune.data.dataset import Samples
from infprune.pipeline.unlearn_bench import Workbench, drawn, staying
from infprune.scores.contract import ScoringInputs
from infprune.scores.measure import collect, needs_of
from infprune.scores.measure import score as channel_scores
from infprune.unlearning.activity import activity, filtered
from infprune.unlearning.selection import SELECTIONS, Chosen, Measured, chosen


def selected_weights(bench: Workbench) -> Chosen:
    """Measure filters on as many forgotten and kept samples as the Hessian gets, and choose."""
    choice, seed = bench.session.config.unlearn, bench.session.config.run.seed
    how, names = SELECTIONS[choice.selection], filtered(bench.module)
    parts = (drawn(bench.task.learned(), choice.samples, seed), staying(bench, choice.samples))
    forget, rest = (activity(bench.module, names, bench.batches(p)) for p in parts)
    run = [n for n in names if n in forget.activation]
    priced = tuple(_influence(bench, p) for p in parts) if how.statistic == "influence" else ({}, {})
    measured = Measured(forget, rest, (priced[0], priced[1]), seed)
    return chosen(how, bench.module, bench.space, run, choice.ratio, choice.threshold, measured)


def _influence(bench: Workbench, samples: Samples) -> dict[str, Tensor]:
    """Channel influence on some samples, by the module that makes the channels."""
    coupling = couple(bench.module, bench.session.example())
    needs = needs_of(["influence"])
    statistics = collect(bench.module, coupling.prunable, bench.batches(samples), needs, seed=0, draws=1)
    found = channel_scores("influence", ScoringInputs(bench.module, coupling.prunable, statistics)).values
    by_module = {}
    for layer in coupling.prunable:
        for s in filters(layer):
            if s.index.shape[1] == 1:
                value = torch.zeros(layer.size, dtype=torch.float64)
                value[s.index[:, 0]] = found[layer.name]
                by_module[s.tensor.rpartition(".")[0]] = value
    return by_module
