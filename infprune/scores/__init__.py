"""The criteria: one entry each; the contract tests run over this dict."""

from infprune.scores.baselines import BN_SCALE, MAGNITUDE, RANDOM
from infprune.scores.contract import Criterion
from infprune.scores.first_order import INF_CP, TAYLOR
from infprune.scores.gate import GATE
from infprune.scores.influence import INFLUENCE
from infprune.scores.theorem1 import THEOREM1

SCORES: dict[str, Criterion] = {
    "influence": INFLUENCE,
    "theorem1": THEOREM1,
    "gate": GATE,
    "inf-cp": INF_CP,
    "taylor": TAYLOR,
    "magnitude": MAGNITUDE,
    "bn-scale": BN_SCALE,
    "random": RANDOM,
}
