"""What validate, layers and features open first: a loss at a point, and its curvature with a way to solve with it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from infprune import ranks
from infprune.config import Config
from infprune.curvature import CURVATURES
from infprune.curvature.algebra import Damped
from infprune.curvature.gate_fisher import GateFisher
from infprune.curvature.kfac import Kronecker, covered
from infprune.curvature.kronecker import wide
from infprune.curvature.objective import Objective
from infprune.curvature.operator import LinearOperator, check_dense
from infprune.curvature.space import ParameterSpace
from infprune.errors import ConfigError
from infprune.forward import Inputs, each
from infprune.influence import FORMS
from infprune.influence.quadratic import Quadratic, Removal
from infprune.influence.retraining import distance, minimise
from infprune.models.attention import explicit
from infprune.pipeline.influence_results import CurvatureRow
from infprune.pipeline.session import Session, open_model, open_session
from infprune.pipeline.stopwatch import Stopwatch
from infprune.solvers import SOLVERS
from infprune.solvers.cg import ConjugateGradients, jacobi
from infprune.solvers.contract import Solver
from infprune.solvers.spectrum import lanczos
from infprune.units import GIB

DENSE_PARAMETERS = 4096  # up to which `influence.solver=auto` makes the curvature dense
AUTO = 1e-4  # `damping: auto` without a ridge: this share of the curvature's largest eigenvalue
SPECTRUM_STEPS = 20
NEAR = 1e-3  # a Newton step relative to the weights, above which a vanishing gradient is no minimum
SLACK = 1e-6  # relative: a change below zero by more is no rounding


@dataclass(frozen=True)
class Problem:
    """A network at a point, and the loss there as a function of its parameters."""

    session: Session
    module: nn.Module
    objective: Objective

    def fitting(self, x: Inputs) -> Inputs:
        """Inputs in the dtype of the network."""
        return fitted(x, self.objective.theta.dtype)


@dataclass(frozen=True)
class Lens:
    """The quadratic that Theorem 1 looks through, and what a result tells about it."""

    quadratic: Quadratic
    described: CurvatureRow

    def removal(self, S: Tensor, form: str | None = None) -> Removal:
        """Theorem 1 for a group in the configured form, or another of `FORMS`.

        Raises:
            ConfigError: the curvature cannot be solved with; the message says what to change.
        """
        found = FORMS[form or self.described.form](self.quadratic, S.to(self.quadratic.theta.device))
        if not found.outcome.usable:
            raise ConfigError(f"the curvature is {found.outcome}: {found.message}")
        if found.change < 0 and found.change < -SLACK * self._alone(S):
            damping = max(0.0, -1.1 * (self.described.least_eigenvalue or 0.0))
            raise ConfigError(
                f"a group would cost {found.change:.3g} nats, but a minimum can only rise: the curvature is indefinite "
                f"or the solve is far off; set influence.damping above {damping:.3g}, or use curvature ggn"
            )
        return found

    def _alone(self, S: Tensor) -> float:
        """|1/2 theta_S^T H_SS theta_S|: the scale of a group's change."""
        d = torch.zeros_like(self.quadratic.theta)
        d[S] = self.quadratic.theta[S]
        return abs(self.quadratic.energy(d))


def open_problem(
    settings: Config, command: str, watch: Stopwatch, *, fit: bool = False, shared: bool = True
) -> Problem:
    """Load data and network, and fit it if asked for: then the loss is that of all training samples.

    Small networks, and those that are fitted, are taken in float64. Several ranks share the batches if `shared`; if
    not, each has all of them, for work that it does `ranks.apart`.

    Raises:
        ConfigError: the ranks cannot share them, or the network is too large to be fitted, or has no minimum.
    """
    choice = settings.influence
    if choice.solver == "lissa" and ranks.world() > 1:
        raise ConfigError("influence.solver: lissa draws batches in one process; use cg, or start it without torchrun")
    with watch.stage("load"):
        session = open_session(settings, command)
        module = explicit(open_model(session))
    space = covered(module)[0] if choice.curvature in ("kfac", "ekfac") else ParameterSpace.of(module)
    fit = fit or choice.fit
    if fit:
        advice = "Newton's method, by which validate and influence.fit find minima, is for smaller networks"
        check_dense(space.size, space.size, torch.float64, advice=advice)
    exact = (fit or dense(settings, space.size)) and session.device.type != "mps"
    dtype = torch.float64 if exact else torch.float32
    module = module.to(dtype)
    data = session.batches(session.splits.train, settings.data.batch_size) if fit else session.calibration()
    share = ranks.share(data, least=1) if shared else ranks.Share(data, 0, (), len(data))
    mine = [(fitted(x, dtype), y) for x, y in share.batches]
    objective = Objective(module, space, mine, ridge=choice.ridge, before=share.before)
    if fit:
        with watch.stage("fit"):
            _fit(objective)
    return Problem(session, module, objective)


def dense(settings: Config, size: int) -> bool:
    """Whether a curvature of this many rows is made dense."""
    solver = settings.influence.solver
    return solver in ("cholesky", "ldl") or (solver == "auto" and size <= DENSE_PARAMETERS)


def through_weights(problem: Problem) -> Lens:
    """The configured curvature of the weights."""
    settings, objective = problem.session.config, problem.objective
    name, size = settings.influence.curvature, objective.space.size
    if dense(settings, size):
        check_dense(size, size, torch.float64)
    make = CURVATURES[name]
    kronecker = name in ("kfac", "ekfac")
    operator = make(objective) if kronecker else make(objective, None, int(settings.influence.memory * GIB))
    lens = _damped(settings, operator, objective.theta, name, objective.samples())
    norm = float(objective.gradient(objective.theta).norm())
    return replace(lens, described=replace(lens.described, gradient_norm=norm))


def through_gates(settings: Config, Z: Tensor, samples: int) -> Lens:
    """The Fisher F = Z^T Z / N of gates g = 1 whose gradients are the rows of Z `(N, C)`; theta = 1."""
    operator = GateFisher(Z.to(wide(Z.device)))
    return _damped(settings, operator, torch.ones_like(operator.Z[0]), "gate Fisher", samples)


def _damped(settings: Config, operator: LinearOperator, theta: Tensor, name: str, samples: int) -> Lens:
    """Add ridge and damping, and choose the solver; the ridge belongs to weights alone."""
    choice, weights = settings.influence, name in CURVATURES
    ridge, semidefinite = (choice.ridge if weights else 0.0), name != "hessian"
    solver = choice.solver
    if solver == "auto":
        solver = "cholesky" if dense(settings, len(theta)) else "cg"
    spectrum = lanczos(operator, SPECTRUM_STEPS)
    damping = choice.damping
    if damping == "auto":
        wanted = 0.0 if ridge > 0 else AUTO * spectrum.high
        damping = max(wanted, 0.0 if semidefinite else spectrum.curing - ridge)
    total = ridge + float(damping)
    described = CurvatureRow(
        space="weights" if weights else "gates",
        curvature=name,
        solver=solver,
        form=choice.form,
        parameters=len(theta),
        samples=samples,
        ridge=ridge,
        damping=float(damping),
        gradient_norm=None,
        least_eigenvalue=spectrum.low + ridge,
        greatest_eigenvalue=spectrum.high + ridge,
    )
    whole = operator.damped(total) if isinstance(operator, Kronecker) else Damped(operator, total)
    floor = total if semidefinite and total > 0 else None
    how = _solver(settings, solver, operator)
    quadratic = Quadratic(whole, theta.to(whole.dtype), how, floor, choice.rtol, choice.max_iterations)
    return Lens(quadratic, described)


def _solver(settings: Config, name: str, operator: LinearOperator) -> Solver:
    choice = settings.influence
    if name in ("cholesky", "ldl"):
        return SOLVERS[name]()
    if name == "cg":  # the diagonal costs a product per parameter, except where it is known
        known = isinstance(operator, Kronecker | GateFisher)
        return ConjugateGradients(choice.rtol, choice.max_iterations, jacobi if known else None)
    if name == "lissa":
        return SOLVERS[name](terms=choice.max_iterations, rtol=choice.rtol, seed=settings.run.seed)
    return SOLVERS[name](rtol=choice.rtol, max_iterations=choice.max_iterations)


def _fit(objective: Objective) -> None:
    """Bring the network to the minimum of its objective."""
    found = minimise(objective, objective.theta)
    if not found.converged:
        raise ConfigError(
            f"influence.fit: the gradient is {found.gradient_norm:.1e} after {found.iterations} Newton steps, 1e-10 "
            "asked for; raise influence.ridge (separable data have no minimum without it) or start from trained weights"
        )
    if objective.ridge == 0 and distance(objective, found.theta) > NEAR:
        raise ConfigError(
            "influence.fit: the loss has no minimum, it falls for ever as the weights grow (separable data); "
            "set influence.ridge above 0"
        )
    objective.space.load(objective.module, found.theta)


def fitted(x: Inputs, dtype: torch.dtype) -> Inputs:
    """Inputs in a number format; integer ones (tokens) stay as they are."""
    return each(lambda t: t.to(dtype) if t.is_floating_point() else t, x)
