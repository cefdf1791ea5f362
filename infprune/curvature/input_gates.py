"""Gradients with respect to gates on the network's inputs: multiply an input feature by g = 1."""

import torch
from torch import Tensor

from infprune.curvature.objective import Objective
from infprune.errors import ArchitectureError
from infprune.forward import tensors


def input_gates(objective: Objective) -> Tensor:
    r"""Rows z = sqrt(R) x . J_x^T r_n, `(R N, D)`, with Z^T Z / (R N) the GGN of the gates.

    r_n are the R columns of the root of the loss's curvature (see `losses.Loss.root`). For samples of D
    entries; one forward pass and R backward passes (R outputs for cross-entropy) per batch.

    Raises:
        ArchitectureError: the network takes several inputs, or token ids.
    """
    theta, rows = objective.theta, []
    for inputs, y in objective.batches:
        if len(tensors(inputs)) > 1 or not tensors(inputs)[0].is_floating_point():
            raise ArchitectureError("features: expected one floating-point input, got several or token ids")
        x = tensors(inputs)[0].detach().requires_grad_()
        z = objective.outputs(theta, x)
        objective.losses(z.detach().requires_grad_(), y)  # its checks
        roots = objective.loss.root(z)
        for i, root in enumerate(roots):
            slope = torch.autograd.grad(z, x, root, retain_graph=i + 1 < len(roots))[0]
            rows.append(len(roots) ** 0.5 * (x.detach() * slope).flatten(1))
    return torch.cat(rows)
