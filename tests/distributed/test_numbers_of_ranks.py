"""Two ranks find what one process finds."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from numbers_of_ranks import numbers
from spawned import ranked

SCRIPT = Path(__file__).with_name("numbers_of_ranks.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Numbers of one process and of two ranks (whose own numbers were equal bit by bit, or the script fails)."""
    folder = tmp_path_factory.mktemp("ranked")
    outcome = ranked(folder, SCRIPT, folder / "numbers.safetensors")
    assert outcome.returncode == 0, outcome.stderr
    assert "Warning" not in outcome.stderr
    return numbers(tmp_path_factory.mktemp("alone")), load_file(folder / "numbers.safetensors")


PRINTED = 2e-2  # entries of an inverse that the rounding of sums in float32 moves
KINDS = {
    "evaluation": 1e-6,
    "one batch": 0.0,
    "scores": 1e-5,  # the order of float32 sums
    "scores at some positions": 1e-5,
    "scores in one pass": 1e-4,  # of a random network, some layers of which nothing hangs on
    "scores in several passes": 1e-4,
    "least squares": 1e-6,
    "least squares, few batches": 1e-6,
    "recalibrated": 1e-6,
    "sgd": 1e-5,
    "adamw, ema, clipping, crops": 1e-5,
    "a small last batch": 1e-5,
    "batch norm": 1e-5,
    "batch norm, a small last batch": 1e-5,
    "interrupted and resumed": 1e-5,
    "auxiliary outputs": 1e-5,
    "two inputs": 1e-5,
    "distilled": 1e-5,
    "distilled, one rank's loss not finite": 0.0,
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_equal_one_process(found, kind):
    one, two = ({name: t for name, t in made.items() if name.startswith(f"{kind}: ")} for made in found)
    assert one.keys() == two.keys()
    assert one
    for name, truth in one.items():
        scale = max(float(truth.abs().max()), 1e-6) if truth.is_floating_point() else 1.0
        bound = PRINTED if "theorem1" in name else KINDS[kind]
        assert_close(two[name], truth, rtol=0.0, atol=bound * scale, msg=lambda told, name=name: f"{name}: {told}")


def test_every_number_is_compared(found):
    kinds = {name.partition(": ")[0] for name in found[0]}
    assert kinds == KINDS.keys() | {"dropout"}


def test_dropout_is_drawn_by_every_rank_for_itself(found):
    one, two = (made["dropout: 5.weight"] for made in found)
    assert float((one - two).abs().max()) > 1e-4
    assert float((one - two).norm()) < 0.5 * float(one.norm())
    for made in found:
        losses = made["dropout: history"][:, 0]
        assert losses[-1] < 0.5 * losses[0]
