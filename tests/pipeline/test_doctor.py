"""The doctor's result: what is prunable, what is not and why, and the bounds of the search."""

import time

import pytest
import torch

from infprune import trial
from infprune.config import Config, DataConfig, ModelConfig, PruneConfig
from infprune.errors import ArchitectureError
from infprune.pipeline import doctor
from infprune.pipeline.bounds import EVERY, resident
from infprune.pipeline.doctor import Limits
from infprune.pipeline.doctor_results import Extent, SliceRow
from infprune.pipeline.results import Change
from infprune.progress import Silent
from infprune.units import GIB
from patients import INPUTS, Literal

NO_DATA = DataConfig(name="mnist", root="/nowhere")


def hoard(count):
    """Hold `count` times 8 MiB."""
    held = []
    for _ in range(count):
        held.append(torch.ones(2**21).add(1))
        time.sleep(EVERY)
    raise AssertionError(len(held))


def diagnose(name, limits=None, **prune):
    model = ModelConfig(name=None, factory=f"patients:{name}", inputs=INPUTS)
    settings = Config(model=model, data=NO_DATA, prune=PruneConfig(**prune))
    return doctor.run(None, settings, limits or Limits(), Silent())


@pytest.fixture(scope="module")
def literal():
    return diagnose("literal")


def test_every_layer_with_its_fate_and_line(literal):
    line = Literal.forward.__code__.co_firstlineno + 2
    cut = f"fixed channel positions in slice.Tensor at patients.py:{line} `extra = x[:, :4].sum((1, 2, 3))`"
    view = (
        f"at patients.py:{line + 1} `return self.head(self.mid(x).relu().mean((2, 3)).view(-1, 12)) + extra[:, None]`"
    )
    fails = f"the cut network fails: RuntimeError: shape '[-1, 12]' is invalid for input of size 22 {view}"
    assert [(row.name, row.channels, row.frozen, row.inexact) for row in literal.layers] == [
        ("stem", 8, None, None),
        ("right", 4, cut, None),
        ("right#2", 5, None, None),
        ("mid", 12, fails, None),
        ("head", 10, "it is an output of the network", None),
    ]
    assert literal.prunable == Extent(2, 13)
    assert literal.total == Extent(5, 39)
    assert (literal.stopped, literal.untried) == (None, 0)


def test_shares_and_reach_by_hand(literal):
    macs = 36 * (27 * 8 + 8 * 9 + 9 * 12) + 120
    params = 28 * 8 + 16 + 9 * 9 + 10 * 12 + 13 * 10
    stem = literal.layers[0]
    assert stem.macs_share == pytest.approx(36 * (27 * 8 + 8 * 9) / macs)
    assert stem.params_share == pytest.approx((28 * 8 + 16 + 8 * 9) / params)
    # one channel of stem is left, and the four frozen of right with one of the five others
    least = Change(params, 28 + 2 + 2 * 5 + 6 * 12 + 130)
    assert literal.params == least
    assert literal.macs == Change(macs, 36 * (27 + 5 + 5 * 12) + 120)


def test_slices_say_where_the_channels_stand(literal):
    rows = literal.layers[0].slices
    assert rows[0] == SliceRow("stem.weight", 0, "producer", 1)
    assert SliceRow("norm.running_mean", 0, "through", 1) in rows
    assert SliceRow("right.weight", 1, "consumer", 1) in rows


def test_without_data_or_weights_both_are_told(literal):
    assert literal.weights == "random"
    assert literal.source is None
    assert literal.inputs == [{"shape": [3, 6, 6], "dtype": "float32"}]
    assert literal.seconds.keys() == {"load", "coupling"}
    assert 0.1 * GIB < literal.peak_bytes < 100 * GIB


def test_an_attribute_that_follows_and_an_inexact_norm():
    (layer, _) = diagnose("sized").layers
    assert layer.frozen is None
    assert layer.inexact == "statistics of norm run over the channels"
    assert SliceRow("@width", 0, "size", 1) in layer.slices


def test_a_branch_that_starts_at_zero_hides_nothing():
    rows = {row.name: row.frozen for row in diagnose("zero_branch").layers}
    assert rows["stem"] is None
    assert rows["inner"].startswith("the cut network fails: relative error ")


def test_protected_layers_and_rounding():
    found = diagnose("literal", protect=["stem"], round_to=2)
    assert [row.frozen for row in found.layers][:3:2] == ["protected", None]
    assert found.macs.after == 36 * (27 * 8 + 8 * 6 + 6 * 12) + 120


def test_the_shipped_network_on_its_data():
    found = doctor.run(None, Config(), Limits(), Silent())
    assert found.weights == "shipped"
    assert found.prunable == Extent(6, 384)
    assert found.inputs == [{"shape": [1, 8, 8], "dtype": "float32"}]
    assert found.params.before == 222_570


def test_twice_the_same(literal):
    assert diagnose("literal").layers == literal.layers


@pytest.mark.parametrize(("name", "seconds"), [("literal", 0), ("endless", 0), ("endless", 0.5)])
def test_time_before_the_coupling_is_known(name, seconds):
    start = time.monotonic()
    with pytest.raises(ArchitectureError, match=rf"stopped before it was .*, {seconds:g} s are over; allow more with"):
        diagnose(name, Limits(seconds=seconds))
    assert time.monotonic() - start < 30
    assert diagnose("literal").prunable == Extent(2, 13)  # torch is as it was


def test_no_memory_at_all():
    with pytest.raises(ArchitectureError, match=r"before it was .*, [0-9.]+ GiB of memory are in use, 0\.01 are"):
        diagnose("literal", Limits(memory=0.01))


def test_the_end_of_the_search_leaves_layers_untried(monkeypatch):
    monkeypatch.setattr(doctor, "SEARCH", 0)
    found = diagnose("literal", Limits(seconds=200))
    assert found.stopped == "0 of 200 s are over"
    assert found.untried == 3
    assert [row.frozen for row in found.layers if row.name == "stem"] == ["not tried for lack of time"]
    assert found.prunable == Extent(0, 0)
    assert found.macs.after == found.macs.before


def test_memory_that_grows_in_the_search_leaves_layers_untried(monkeypatch):
    def greedy(*_):
        hoard(1000)

    monkeypatch.setattr(trial, "fault", greedy)
    found = diagnose("literal", Limits(memory=(resident() + 2**29) / GIB))
    assert "GiB of memory are in use" in found.stopped
    assert found.untried == 3
    assert found.peak_bytes < 100 * GIB
    reasons = {row.name: row.frozen for row in found.layers}
    assert reasons["stem"] == "not tried"
    assert reasons["head"] == "it is an output of the network"
