"""Which samples to keep, by their scores: hard, easy or middle ones, as many of each class or not."""

import math

import torch
from torch import Tensor

from infprune.errors import ConfigError


def _hard(order: Tensor, count: int) -> Tensor:
    return order[len(order) - count :]


def _easy(order: Tensor, count: int) -> Tensor:
    return order[:count]


def _middle(order: Tensor, count: int) -> Tensor:
    start = (len(order) - count) // 2
    return order[start : start + count]


STRATEGIES = {"hard": _hard, "easy": _easy, "middle": _middle}
"""By the ascending order of scores: the largest, the smallest, those around the median."""


def chosen(scores: Tensor, labels: Tensor, keep: float, strategy: str, balance: str, seed: int = 0) -> Tensor:
    """Positions of round(keep x N) of the samples with `scores` (N,) and `labels` (N,), ascending.

    `balance` "class": of every class its share, rounded by largest remainder so that the sum is exact, at least one of
    each class; "none": by scores alone. Equal scores are ordered by chance (`seed`), not by position in the data set.

    Raises:
        ConfigError: nothing would be left.
    """
    count = round(keep * len(scores))
    classes = torch.unique(labels).tolist()
    least = len(classes) if balance == "class" else 1
    if count < least:
        what = f"{least} classes" if balance == "class" else "one sample"
        raise ConfigError(f"--keep: {keep:g} of {len(scores)} samples is {count}, too few for {what}; keep more")
    groups = [(labels == c).nonzero()[:, 0] for c in classes] if balance == "class" else [torch.arange(len(labels))]
    shuffled = torch.randperm(len(scores), generator=torch.Generator().manual_seed(seed))
    rank = torch.empty_like(shuffled)
    rank[shuffled[torch.argsort(scores[shuffled], stable=True)]] = torch.arange(len(scores))
    found = []
    for at, some in zip(groups, shares([len(g) for g in groups], count), strict=True):
        found.append(STRATEGIES[strategy](at[rank[at].argsort()], some))
    return torch.cat(found).sort().values


def shares(sizes: list[int], count: int) -> list[int]:
    """Divide `count` over groups in proportion to their sizes, at least one each, by largest remainder."""
    total = sum(sizes)
    exact = [count * size / total for size in sizes]
    found = [max(1, int(e)) for e in exact]
    while sum(found) > count:  # small groups took one each: the largest give it back
        found[max(range(len(found)), key=lambda i: found[i] - exact[i] if found[i] > 1 else -math.inf)] -= 1
    by_remainder = sorted(range(len(sizes)), key=lambda i: found[i] - exact[i])
    for i in by_remainder[: count - sum(found)]:
        found[i] += 1
    return found
