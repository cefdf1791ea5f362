"""Configuration -> live objects: the random inputs of commands that need no data."""

import pytest
import torch

from infprune.config import Config, ModelConfig, RunConfig
from infprune.errors import ConfigError
from infprune.pipeline.session import example_inputs, prepare


def settings(inputs, seed=0):
    return Config(model=ModelConfig(inputs=inputs), run=RunConfig(seed=seed))


IMAGE = {"shape": [3, 16, 16]}
TOKENS = {"shape": [50], "dtype": "int64", "high": 5}


def test_one_input_is_a_tensor_of_normal_numbers(device):
    x = example_inputs(settings([IMAGE]), 8, device)
    assert (x.shape, x.dtype, x.device.type) == ((8, 3, 16, 16), torch.float32, device.type)
    assert float(x.mean()) == pytest.approx(0, abs=0.05)
    assert float(x.std()) == pytest.approx(1, abs=0.05)


def test_several_inputs_are_a_tuple(device):
    tokens, image = example_inputs(settings([TOKENS, IMAGE]), 8, device)
    assert (tokens.shape, tokens.dtype) == ((8, 50), torch.int64)
    assert sorted(set(tokens.flatten().tolist())) == [0, 1, 2, 3, 4]
    assert image.shape == (8, 3, 16, 16)


def test_same_seed_same_inputs_and_the_global_state_is_left():
    state = torch.get_rng_state()
    first, again, other = (example_inputs(settings([IMAGE], seed), 2, "cpu") for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_description_no_inputs():
    with pytest.raises(
        ConfigError, match=r"model\.inputs: needed without data; give it, e\.g\. model\.inputs='\[{shape"
    ):
        example_inputs(settings(None), 2, "cpu")


def test_an_accelerator_that_no_setting_names_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("xpu"))
    assert prepare(Config()) == torch.device("cpu")
