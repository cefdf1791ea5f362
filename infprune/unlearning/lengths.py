"""Which step lengths are tried."""

from collections.abc import Callable, Mapping, Sequence

FURTHER = 8  # doublings of the longest length, halvings of the shortest one


def searched(score: Callable[[float], float | None], lengths: Sequence[float], staying: float) -> dict[float, float]:
    """Try lengths, then beyond the longest and the shortest while that one alone is the best and better than staying.

    Where none is better than staying, shorter ones are tried too: along a direction that leads down the first steps do.

    Args:
        score: of a length, the higher the better; None: so far away that there is none, nor for any longer one.
        lengths: tried in any case, upwards.
        staying: the score of length 0.

    Returns:
        The scores by length, ascending.
    """
    found: dict[float, float] = {}

    def tried(length: float) -> bool:
        value = score(length)
        if value is not None:
            found[length] = value
        return value is not None

    all(tried(length) for length in sorted(set(lengths)))  # up to the first that has none
    for edge, factor in ((max, 2.0), (min, 0.5)):
        for _ in range(FURTHER if found else 0):
            lost = edge is min and max(found.values()) <= staying
            if not (lost or _leads(edge(found), found, staying)) or not tried(factor * edge(found)):
                break
    return dict(sorted(found.items()))


def _leads(length: float, found: Mapping[float, float], staying: float) -> bool:
    return found[length] > max([staying, *(value for at, value in found.items() if at != length)])
