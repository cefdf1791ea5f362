"""Influence of a training sample on its own loss: how much the network had to bend for it."""

import contextlib
import math

import torch
from torch import Tensor

from infprune import ranks
from infprune.attribution.contract import Curved, Measured, Method, Need, ScoringInputs
from infprune.attribution.influence import solve
from infprune.attribution.per_sample import gradients
from infprune.curvature.energies import energies
from infprune.curvature.kfac import CalledTwiceError, Kronecker
from infprune.errors import ConfigError
from infprune.influence.quadratic import Quadratic
from infprune.solvers.direct import Factorised


def compute(inputs: ScoringInputs) -> Measured:
    r"""Score every training sample by

    .. math:: s_n = g_n^\top H^{-1} g_n, \quad g_n = \nabla_\theta \ell(z_n, \theta)

    (Koh and Liang 2017, section 5.4; Feldman and Zhang 2020 compare it with memorisation). Not negative for a positive
    definite H; LARGER is harder, more memorised, more suspect. Leaving the sample out raises its own loss by about
    s_n / N. Exact with gradients of single samples, in chunks within `options.memory`; through a Kronecker curvature
    without them (`curvature.energies`).

    With `options.projection` = k no gradient exists: with W `(P, k)` standard normal over sqrt(k) and H = R R^T,

    .. math:: s_n \approx |W^\top R^{-1} g_n|^2

    is unbiased with a relative standard deviation of sqrt(2 / k), told in `facts["relative_error"]`.

    Raises:
        ConfigError: the curvature cannot be solved with, or has no root to project with.
        ArchitectureError: the network cannot be mapped over samples.
    """  # noqa: D415
    assert inputs.curved is not None
    if inputs.options.projection is not None:
        return _projected(inputs.curved, inputs.options.projection, inputs.seed)
    operator = inputs.curved.quadratic.operator
    if isinstance(operator, Kronecker):
        with contextlib.suppress(CalledTwiceError):
            found = energies(inputs.curved.train, operator.power(-1.0))
            return Measured(found, facts={"samples": len(found), "residual": 0.0})
    return _by_gradients(inputs, inputs.curved)


def _by_gradients(inputs: ScoringInputs, curved: Curved) -> Measured:
    """Sample by sample; a rank solves for its own, so what it solves with must not need the others."""
    found, gaps = [], [0.0]
    with ranks.apart(), inputs.progress.bar("self-influence", len(inputs.train)) as bar:
        for g in gradients(curved.train, inputs.options.memory):
            energy, gap = _energy(curved.quadratic, g.T)
            found.append(energy)
            gaps.append(gap)
            for _ in range(len(g)):
                bar.advance()
    energies, residuals = ranks.joined(torch.cat(found)), ranks.joined(torch.tensor(gaps, dtype=torch.float64))
    return Measured(energies, facts={"samples": len(energies), "residual": float(residuals.max())})


def _energy(quadratic: Quadratic, G: Tensor) -> tuple[Tensor, float]:
    """Column by column g^T H^-1 g, and the relative residual; with H = L L^T half a solve will do, |L^-1 g|^2."""
    if isinstance(quadratic.operator, Kronecker) or not isinstance(quadratic.prepared, Factorised):
        solution = solve(quadratic, G)
        return (G * solution.value.to(G)).sum(0), solution.residual
    root, residual = quadratic.prepared.root, solve(quadratic, G[:, :1]).residual
    return torch.linalg.solve_triangular(root, G.to(root), upper=False).square().sum(0), residual


def _projected(curved: Curved, k: int, seed: int) -> Measured:
    theta = curved.train.theta
    W = torch.randn(len(theta), k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / math.sqrt(k)
    slopes = curved.train.slopes(theta, _rooted(curved.quadratic, W.to(theta)))
    facts = {"samples": len(slopes), "projection": k, "relative_error": math.sqrt(2 / k)}
    return Measured(slopes.square().sum(1), facts=facts)


def _rooted(quadratic: Quadratic, W: Tensor) -> Tensor:
    """R^-T W with H = R R^T."""
    if isinstance(quadratic.operator, Kronecker):
        return quadratic.operator.power(-0.5).matmat(W).to(W)
    prepared = quadratic.prepared
    if not isinstance(prepared, Factorised):
        solve(quadratic, W[:, :1])  # tells what is wrong with the curvature, if that is it
        raise ConfigError(
            "samples.projection needs a root of the curvature: use influence.solver=cholesky or curvature kfac or ekfac"
        )
    found: Tensor = torch.linalg.solve_triangular(prepared.root.mT, W.to(prepared.root), upper=True)
    return found.to(W)


SELF_INFLUENCE = Method(
    compute,
    "nats x samples",
    "memorised: without the sample its own loss would rise by score / N",
    Need.CURVATURE,
)
