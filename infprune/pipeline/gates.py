"""Quality gates: what was asked, what was measured, and whether it will do."""

from collections.abc import Iterable

from infprune.config import Config
from infprune.pipeline.results import Accuracy, Change, Gate

LATENCY = "max-latency"
ROUNDING = 1e-9  # of a difference of accuracies: .99 less .98 is more than .01


def of_prune(settings: Config, latency: Change, accuracy: Accuracy | None) -> list[Gate]:
    """The configured gates of a pruned network; those of accuracy only where it was measured."""
    prune, gates = settings.prune, list[Gate]()
    if accuracy is not None and prune.min_accuracy is not None:
        gates.append(least_accuracy(accuracy.final, prune.min_accuracy))
    if accuracy is not None and prune.max_drop is not None:
        gates.append(greatest_drop(accuracy.dense - accuracy.final, prune.max_drop))
    if prune.max_latency is not None:
        gates.append(greatest_latency(latency, prune.max_latency))
    return gates


def least_accuracy(accuracy: float, limit: float) -> Gate:
    """Test accuracy must not be below `limit`."""
    passed = accuracy >= limit
    told = f"accuracy {accuracy:.4f} is {'not ' * passed}below --min-accuracy {limit}"
    return Gate("min-accuracy", limit, accuracy, passed, told)


def within(drop: float, limit: float) -> bool:
    """Whether an accuracy, which is a share of samples, has fallen by at most `limit`."""
    return drop <= limit + ROUNDING


def greatest_drop(drop: float, limit: float) -> Gate:
    """Test accuracy must not fall by more than `limit`."""
    passed = within(drop, limit)
    change = f"dropped by {drop:.4f}" if drop > 0 else f"rose by {-drop:.4f}" if drop < 0 else "stayed"
    told = f"accuracy {change}, {'within' if passed else 'more than'} --max-drop {limit}"
    return Gate("max-drop", limit, drop, passed, told)


def greatest_latency(latency: Change, limit: float) -> Gate:
    """Median time of one sample: up to a limit of 1 a share of the dense median, else milliseconds."""
    value = latency.after / latency.before if limit <= 1 else latency.after
    passed = value <= limit
    shown = f"{value:.3g} of the dense {latency.before:.3g} ms" if limit <= 1 else f"{value:.3g} ms"
    return Gate(LATENCY, limit, value, passed, f"latency {shown} is {'not ' * passed}above --max-latency {limit}")


def least_agreement(agreement: float, limit: float) -> Gate:
    """The share of equal predictions must not be below `limit`."""
    passed = agreement >= limit
    told = f"agreement {agreement:.4f} is {'not ' * passed}below --min-agreement {limit}"
    return Gate("min-agreement", limit, agreement, passed, told)


def missed(gates: Iterable[Gate]) -> list[str]:
    """What the gates that were not passed say."""
    return [gate.message for gate in gates if not gate.passed]


def marks(gates: Iterable[Gate]) -> list[str]:
    """The same for a file, which holds no times: they differ from run to run."""
    return [
        f"latency is above --max-latency {gate.limit}" if gate.name == LATENCY else gate.message
        for gate in gates
        if not gate.passed
    ]
