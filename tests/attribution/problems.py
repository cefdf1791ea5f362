"""Small problems that the methods are tried on, in float64 and with everything they may ask for."""

import torch
from torch import nn

from infprune.attribution.contract import Curved, Learning, Options, ScoringInputs
from infprune.curvature import CURVATURES
from infprune.curvature.algebra import Damped
from infprune.curvature.kfac import Kronecker
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.data.dataset import ArrayDataset, Part
from infprune.data.loaders import batches
from infprune.influence.quadratic import Quadratic
from infprune.influence.retraining import minimise
from infprune.solvers.cg import ConjugateGradients
from infprune.solvers.direct import Cholesky
from infprune.training import Recipe

DAMPING = 0.05


def blobs(n=60, classes=3, seed=0, wide=4):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centres = 1.5 * torch.randn(classes, wide, generator=torch.Generator().manual_seed(99))
    return torch.randn(n, wide, generator=generator) + centres[y], y


def network(seed=0, wide=4, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(wide, 5), nn.Tanh(), nn.Linear(5, classes))


def curved(module, x, y, xq, yq, curvature="ggn", solver="cholesky", damping=DAMPING, sizes=(23, 37)):
    space = ParameterSpace.of(module)
    split = [(a, b) for a, b in zip(x.split(list(sizes)), y.split(list(sizes)), strict=True)]
    train = Objective(module, space, split)
    operator = CURVATURES[curvature](train)
    whole = operator.damped(damping) if isinstance(operator, Kronecker) else Damped(operator, damping)
    how = Cholesky() if solver == "cholesky" else ConjugateGradients(1e-12, 500)
    return Curved(train, train.on([(xq[:7], yq[:7]), (xq[7:], yq[7:])]), Quadratic(whole, train.theta, how))


def inputs(x, y, module=None, curved=None, fresh=network, passes=3, seed=0, batch=16, **options):
    data = ArrayDataset(x, y)
    train = Part(data, torch.arange(len(y)))
    held = batches(ArrayDataset(*blobs(20, seed=5)), 20)
    recipe = Recipe(passes, lr=0.1, batch_size=batch, schedule="constant")
    return ScoringInputs(
        train=train,
        labels=y,
        classes=int(y.max()) + 1,
        batches=lambda samples: batches(samples, 32),
        learning=Learning(fresh, recipe, held),
        options=Options(**options),
        seed=seed,
        module=module,
        curved=curved,
    )


def fitted(x, y, ridge, classes=3):
    """A linear classifier at the minimum of its regularised loss, float64."""
    module = nn.Linear(x.shape[1], classes).double()
    objective = Objective(module, ParameterSpace.of(module), [(x, y)], ridge=ridge)
    found = minimise(objective, objective.theta)
    assert found.converged
    objective.space.load(module, found.theta)
    return module
