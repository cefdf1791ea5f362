"""A file is pruned on by a budget that is given, however it is written."""

import pytest

from infprune.errors import ConfigError
from infprune.pipeline.artifact import require_budget


@pytest.mark.parametrize("word", ["prune.rate=0.3", "prune={rate: 0.3}", "prune.macs = 0.5"])
def test_a_budget_counts_however_it_is_written(word):
    require_budget(None, [word], "slimming")


@pytest.mark.parametrize("word", ["prune.rate=null", "prune={floor: 0.1}", "prune=", "finetune.lr=0.1"])
def test_without_a_budget_none_is_assumed(word):
    with pytest.raises(ConfigError, match="say how far"):
        require_budget(None, [word], "slimming")
