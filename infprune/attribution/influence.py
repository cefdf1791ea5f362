"""Influence of training samples on the loss of others (Koh and Liang 2017)."""

import torch
from torch import Tensor

from infprune import ranks
from infprune.attribution.contract import Curved, Measured, Method, Need, ScoringInputs
from infprune.curvature.kfac import Kronecker
from infprune.curvature.objective import Objective, differentiated
from infprune.errors import ConfigError, InputError
from infprune.influence.quadratic import Quadratic
from infprune.solvers.contract import Outcome, Solution


def compute(inputs: ScoringInputs) -> Measured:
    r"""Score every training sample by what its removal would cost the queries.

    .. math:: s_n = \nabla L(\theta)^\top H^{-1} \nabla_\theta \ell(z_n, \theta)

    with L the mean loss of the queries. Koh and Liang (2017), eq. 2, with the opposite sign: LARGER is more helpful.
    Without sample n the query loss changes by about +s_n / N, N the number of training samples (`facts["samples"]`).
    Per class, column c has the queries of class c, still over the number of all queries, so that columns add up to the
    whole. H: the mean curvature plus ridge and damping. No gradient of a single sample is stored: see
    `Objective.slopes`.

    Raises:
        ConfigError: the curvature cannot be solved with.
        InputError: there are no queries.
    """
    curved = _curved(inputs)
    G, counts = _query_gradients(curved.queries, inputs.classes if inputs.options.per_class else None)
    found = solve(curved.quadratic, G)
    slopes = curved.train.slopes(curved.train.theta, found.value.to(G))
    names = tuple(str(c) for c in range(inputs.classes)) if inputs.options.per_class else ()
    facts = {
        "samples": len(inputs.train),
        "queries": sum(counts),
        "outcome": str(found.outcome),
        "residual": found.residual,
        "message": found.message,
    }
    return Measured(slopes if names else slopes[:, 0], names, facts=facts)


def _curved(inputs: ScoringInputs) -> Curved:
    assert inputs.curved is not None
    return inputs.curved


def solve(quadratic: Quadratic, B: Tensor) -> Solution:
    """H^-1 B; a Kronecker curvature is inverted in closed form.

    Raises:
        ConfigError: the curvature cannot be solved with; the message says what to change.
    """
    if isinstance(quadratic.operator, Kronecker):
        return Solution(quadratic.operator.power(-1.0).matmat(B), Outcome.CONVERGED, 1, 0.0)
    found = quadratic.prepared.solve(B)
    if not found.outcome.usable:
        raise ConfigError(f"the curvature is {found.outcome}: {found.message}")
    return found


@torch.enable_grad()
def _query_gradients(queries: Objective, classes: int | None) -> tuple[Tensor, list[int]]:
    """Gradients of the queries' mean loss `(P, G)`, split by class unless that is None, and the samples per column."""
    leaf = queries.theta.detach().requires_grad_()
    columns = classes or 1
    total, counts = torch.zeros(len(leaf), columns).to(leaf.detach()), [0] * columns
    for x, y in queries.batches:
        losses = queries.losses(queries.outputs(leaf, x), y)
        for c in range(columns):
            mine = losses if classes is None else losses[y == c]
            if len(mine):
                total[:, c] += differentiated(mine.sum(), leaf) if classes is None else _again(mine.sum(), leaf)
                counts[c] += len(mine)
    total, counts = ranks.total(total), [round(n) for n in ranks.totals(*counts)]
    if not sum(counts):
        raise InputError("expected at least one query sample, got none; raise samples.queries or give more data")
    return total / sum(counts), counts


def _again(value: Tensor, leaf: Tensor) -> Tensor:
    """As `differentiated`, with the graph kept for the next class."""
    found = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(leaf) if found is None else found


INFLUENCE = Method(
    compute, "nats x samples", "helpful: without the sample the query loss would rise by score / N", Need.CURVATURE
)
