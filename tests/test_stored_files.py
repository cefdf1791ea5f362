"""A pruned file and a scores file of an earlier release: they must load for as long as the schema has this version."""

import json
import os
from pathlib import Path

import torch

import infprune
from infprune.artifacts import read_scores
from infprune.attribution.scores_file import read_sample_scores

STORED = Path(__file__).parent / "stored/v1"


def test_the_file_computes_what_it_did():
    module = infprune.load(STORED / "pruned.safetensors")
    with torch.no_grad():
        found = module(torch.linspace(-1, 1, 128).view(2, 1, 8, 8))
    truth = torch.tensor(json.loads((STORED / "pruned.logits").read_text()))
    assert torch.allclose(found, truth, rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in module.parameters()) == 672


def test_the_scores_are_read():
    scores, manifest = read_scores(STORED / "scores.safetensors")
    assert (scores.criterion, manifest.samples) == ("influence", 128)
    assert {name: len(v) for name, v in scores.values.items()} == {
        "conv1": 4, "stages.0.conv1": 4, "stages.1.conv1": 8, "stages.1.conv2": 8
    }  # fmt: skip
    assert scores.curves.keys() == scores.values.keys()


def test_the_sample_scores_are_read():
    scores, manifest = read_sample_scores(STORED / "sample-scores.safetensors")
    assert (scores.method, manifest.samples, scores.facts) == ("el2n", 1438, {"seeds": 3, "epochs": 2})
    assert (len(scores.total), scores.details.keys()) == (22, {"spread"})


def test_they_are_small():
    assert sum(os.path.getsize(path) for path in STORED.iterdir()) < 50_000  # noqa: PTH202
