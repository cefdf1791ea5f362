"""Short training runs on an easy problem, shared by the tests of training and of resuming."""

from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from infprune.data.augment import AUGMENTATIONS, crop_flip
from infprune.data.dataset import ArrayDataset
from infprune.data.loaders import batches
from infprune.training import Recipe, train

RECIPES = {
    "sgd": Recipe(epochs=4, batch_size=16, lr=0.05, warmup_epochs=1.0),
    "everything": Recipe(
        epochs=4,
        batch_size=16,
        optimizer="adamw",
        lr=0.01,
        weight_decay=0.01,
        ema=0.9,
        label_smoothing=0.1,
        clip_norm=1.0,
        augment="crop-flip",
        schedule="constant",
    ),
}
KILLED = replace(RECIPES["everything"], epochs=20)


def images(n=60):
    """Three easy classes: a bright row at the top, in the middle, at the bottom, in noise."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(n) % 3
    x = 0.3 * torch.randn(n, 1, 9, 9, generator=generator)
    x[torch.arange(n), 0, 1 + 3 * y] += 1.0
    return ArrayDataset(x, y)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(6 * 81, 3),
    )


def small_crop(x, **how):
    return crop_flip(x, padding=1, **how)


def run(recipe, module=None, data=None, **options):
    """Train on `images`, with augmentation where the recipe names one; seed 5 unless told."""
    data = data or images()
    options = {"seed": 5, "augment": small_crop if recipe.augment == "crop-flip" else AUGMENTATIONS["none"]} | options
    return train(module or network(), data, batches(data, 32), recipe, **options)


def same(a, b):
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


class Telling:
    """Progress that records, and interrupts the run at a step."""

    def __init__(self, stop=None):
        self.bars, self.steps, self.notes, self.stop = [], 0, [], stop

    @contextmanager
    def bar(self, description, total):
        self.bars.append((description, total))
        yield self

    def advance(self, note=""):
        self.steps += 1
        self.notes.append(note)
        if self.steps == self.stop:
            raise KeyboardInterrupt
