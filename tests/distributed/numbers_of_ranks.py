"""Numbers that must not depend on how many ranks make them; run by one process and by torchrun: OUTPUT is written."""

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import nn

from easy_training import RECIPES, Telling, images, network
from forms import TwoInputs, WithAuxiliary, drawn
from infprune import compensation, config, distillation, ranks
from infprune.coupling.couple import couple
from infprune.coupling.graph import trace
from infprune.coupling.propagation import Options
from infprune.data.augment import crop_flip
from infprune.data.dataset import ArrayDataset
from infprune.data.loaders import batches
from infprune.distillation import Distillation, distill
from infprune.evaluation import evaluate
from infprune.pipeline.bench import open_bench
from infprune.pipeline.score import scored as scored_within
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Silent
from infprune.scores import SCORES
from infprune.scores.contract import Need, ScoringInputs
from infprune.scores.measure import collect, score
from infprune.surgery import kept_positions, resized
from infprune.training import train


def plain():
    """Without batch norm and dropout."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(405, 3),
    )


def normed():
    """With batch norm, without dropout."""
    module = network()
    module[3].p = 0.0
    return module


def scored(module, size, positions):
    """Statistics and scores of every criterion."""
    data = ranks.share(batches(images(), size), least=1)
    coupling = couple(module, images().x[:2], trace(module, images().x[:2]), Options())
    layers = coupling.prunable
    statistics = collect(
        module, layers, data.batches, frozenset(Need), seed=3, draws=2, positions=positions, before=data.before
    )
    found = {f"A {name}": f.inputs.dense() for name, f in statistics.kronecker.items()}
    found |= {f"G {name}": f.gradients for name, f in statistics.kronecker.items()}
    found |= {f"gates {name}": z for name, z in statistics.gates_model.items()}
    inputs = ScoringInputs(module, layers, statistics, seed=2)
    for criterion in sorted(SCORES.keys() - {"bn-scale"}):  # a set has another order in each process
        found |= {f"{criterion} {name}": v for name, v in score(criterion, inputs).values.items()}
    return found


def passed(*words):
    """Scores of the digits network, by several criteria, in as many passes as memory allows."""
    shared = ["model.checkpoint=random", "data.calibration=48", "data.batch_size=12", "prune.scope=global"]
    bench = open_bench(config.load("digits", [*shared, *words]), "score", Stopwatch())
    told = Telling()
    found = scored_within(bench, ("influence", "gate", "inf-cp"), 3, told)
    assert len(told.bars) == (4 if words else 1), told.bars
    return {f"{name} {layer}": v for name, of in found.items() for layer, v in of.values.items()}


def refitted(module, size, positions):
    """A third of the channels cut, the rest refitted; running statistics anew where there are some."""
    coupling = couple(module, images().x[:2], trace(module, images().x[:2]), Options())
    masks = {layer.name: torch.arange(layer.size) % 3 != 1 for layer in coupling.prunable}
    kept = kept_positions(coupling, masks)
    small = resized(module, kept)
    data = batches(images(), size)
    fits = compensation.least_squares(module, small, coupling, kept, data, positions=positions)
    compensation.recalibrate(small, data)
    found = dict(small.state_dict())
    return found | {f"damping {fit.module}": torch.tensor(fit.damping) for fit in fits}


def trained(module, recipe, padding=None, data=None, **options):
    """The weights, and what was told of the epochs."""
    if padding is not None:
        options["augment"] = lambda x, rows: crop_flip(x, padding, rows=rows)
    data = data or images()
    done = train(module, data, batches(data, 32), recipe, seed=5, **options)
    history = [(e.loss, e.train_accuracy, e.validation_accuracy) for e in done.history]
    return dict(done.module.state_dict()) | {"history": torch.tensor(history, dtype=torch.float64)}


def resumed(recipe, folder):
    """A run that is interrupted in its second epoch and goes on; another one that is not."""
    last = replace(recipe, epochs=2)
    with suppress(KeyboardInterrupt):
        trained(plain(), last, checkpoint=folder / "state.ckpt", progress=Telling(stop=5))
    assert (folder / "state.ckpt").exists()
    return trained(plain(), last, checkpoint=folder / "state.ckpt", resume=True)


def distilled():
    """Weights that follow another network's logits."""
    small = normed()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in small.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    validation, how = batches(images(), 32), Distillation(2, 16)
    with patch.object(distillation, "LEAST", 2):
        made = distill(normed(), small, images(), validation, how, seed=0, auxiliary=(), progress=Silent())
    assert made is not small
    return dict(made.state_dict())


def diverging():
    """The network as it was: the loss of a single row is not finite, which the other rank does not see by itself."""
    data = images()
    data.x[7] = 1e38
    small, how = plain(), Distillation(1, 16)
    with torch.no_grad():
        small[0].weight.mul_(1.5)
    with patch.object(distillation, "LEAST", 2):
        made = distill(plain(), small, data, batches(images(), 32), how, seed=0, auxiliary=(), progress=Silent())
    assert made is small
    return dict(made.state_dict())


def numbers(folder):
    """By name."""
    sgd, everything = RECIPES["sgd"], RECIPES["everything"]
    told = evaluate(plain(), batches(images(), 7))
    found = {"evaluation": {"": torch.tensor([told.accuracy, told.loss, told.samples], dtype=torch.float64)}}
    found["one batch"] = {"": torch.tensor([evaluate(plain(), batches(images(), 99)).loss])}  # nothing for rank 1
    found["scores"] = scored(plain(), 13, None)
    found["scores at some positions"] = scored(plain(), 13, 9)
    found["scores in one pass"], found["scores in several passes"] = passed(), passed("score.memory=0.0091")
    found["least squares"] = refitted(plain(), 13, 9)
    found["least squares, few batches"] = refitted(plain(), 30, None)
    found["recalibrated"] = refitted(normed(), 13, None)
    found["sgd"] = trained(plain(), replace(sgd, epochs=2))
    found["adamw, ema, clipping, crops"] = trained(plain(), replace(everything, epochs=2), 1)
    found["a small last batch"] = trained(plain(), replace(sgd, epochs=2), data=images(51))
    found["batch norm"] = trained(normed(), replace(sgd, epochs=2))
    found["batch norm, a small last batch"] = trained(normed(), replace(sgd, epochs=2), data=images(50))
    found["interrupted and resumed"] = resumed(sgd, folder)
    found["auxiliary outputs"] = trained(WithAuxiliary(), sgd, data=images(40))
    *x, y = drawn(60, 0)
    found["two inputs"] = trained(TwoInputs(), sgd, data=ArrayDataset(tuple(x), y))
    found["distilled"] = distilled()
    found["distilled, one rank's loss not finite"] = diverging()
    found["dropout"] = trained(network(), sgd)
    return {f"{a}: {b}": t.contiguous().clone() for a, values in found.items() for b, t in values.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks.join()
    target = Path(sys.argv[1])
    result = numbers(target.parent)
    ranks.alike("numbers", str([(name, t.tolist()) for name, t in sorted(result.items())]))
    if ranks.leads():
        save_file(result, target)
    ranks.finish()
    ranks.leave(0)
