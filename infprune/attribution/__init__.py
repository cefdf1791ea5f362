"""Which training samples matter: one method per file; each gives one score per sample, larger is more important."""

from infprune.attribution.contract import Method
from infprune.attribution.random import RANDOM

METHODS: dict[str, Method] = {
    "random": RANDOM,
}
