"""Which training samples matter: one method per file; each gives one score per sample, larger is more important."""

from infprune.attribution.contract import Method
from infprune.attribution.el2n import EL2N
from infprune.attribution.forgetting import FORGETTING
from infprune.attribution.grand import GRAND
from infprune.attribution.influence import INFLUENCE
from infprune.attribution.memorisation import MEMORISATION
from infprune.attribution.out_of_fold import OUT_OF_FOLD
from infprune.attribution.prototypes import PROTOTYPES
from infprune.attribution.random import RANDOM
from infprune.attribution.self_influence import SELF_INFLUENCE

METHODS: dict[str, Method] = {
    "influence": INFLUENCE,
    "self-influence": SELF_INFLUENCE,
    "memorisation": MEMORISATION,
    "out-of-fold": OUT_OF_FOLD,
    "el2n": EL2N,
    "grand": GRAND,
    "forgetting": FORGETTING,
    "prototypes": PROTOTYPES,
    "random": RANDOM,
}
