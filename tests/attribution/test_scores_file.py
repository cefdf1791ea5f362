"""Files of sample scores: round trip and damage."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from infprune.artifacts import read_file, sealed
from infprune.attribution.contract import SampleScores
from infprune.attribution.scores_file import SampleScoresManifest, read_sample_scores, write_sample_scores
from infprune.errors import InputError
from infprune.models.seal import KEY


def _scores(**changes):
    values = {
        "method": "el2n",
        "unit": "norm",
        "meaning": "hard",
        "indices": torch.tensor([1, 4, 6]),
        "scores": torch.tensor([[0.5, 1.0], [2.0, 0.0], [-1.0, 0.25]], dtype=torch.float64),
        "labels": torch.tensor([0, 1, 0]),
        "data_sha256": "ab",
        "groups": ("0", "1"),
        "details": {"loss": torch.tensor([1.0, 2.0, 3.0])},
        "facts": {"seeds": 3},
    }
    return SampleScores(**values | changes)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "s.safetensors"
    write_sample_scores(path, _scores(), samples=9, base_sha256=None, seed=1, config={})
    return path


def test_what_was_written_is_read(file):
    found, manifest = read_sample_scores(file)
    assert (found.indices.tolist(), found.labels.tolist()) == ([1, 4, 6], [0, 1, 0])
    assert found.scores.dtype == torch.float64
    assert found.total.tolist() == [1.5, 2.0, -0.75]
    assert found.details["loss"].tolist() == [1.0, 2.0, 3.0]
    assert (found.groups, found.facts, manifest.samples, manifest.seed) == (("0", "1"), {"seeds": 3}, 9, 1)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("scores", torch.full((3, 2), torch.nan).double(), "finite scores"),
        ("scores", torch.zeros(3).double(), r"of shape \(3, 2\), got \(3,\)"),
        ("indices", torch.tensor([1, 4, 9]), r"expected indices in 0\.\.8"),
        ("indices", torch.tensor([4, 1, 6]), "ascending"),
        ("labels", torch.tensor([0, 1]), "labels do not fit"),
        ("labels", None, "holds no labels"),
        ("detail.loss", torch.zeros(2), "details"),
    ],
)
def test_damage_is_named(file, name, value, told):
    tensors, text = load_file(file), read_file(file)[1]
    tensors.pop(name)
    if value is not None:
        tensors[name] = value
    file.write_bytes(sealed(tensors, SampleScoresManifest.model_validate_json(text)))
    with pytest.raises(InputError, match=told):
        read_sample_scores(file)


def test_a_changed_score_is_refused(file):
    tensors, text = load_file(file), read_file(file)[1]
    tensors["scores"][0, 0] += 1e-9
    save_file(tensors, file, {KEY: text})
    with pytest.raises(InputError, match="SHA-256 differs"):
        read_sample_scores(file)
