"""Dense float64 truths, written from the definitions. Nothing here imports the package.

Losses are means over samples unless said otherwise; a parameter vector is `torch.cat` of the flattened parameters in
the order of `named_parameters`; `S` is a list of indices.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise, product

import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call, grad, jacrev
from torch.nn import functional as F

# --- curvature of a network's parameters ------------------------------------------------------------------------------


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def _logits(module: nn.Module, theta: Tensor, x: Tensor) -> Tensor:
    parameters = dict(module.named_parameters())
    pieces = theta.split([p.numel() for p in parameters.values()])
    shaped = {name: t.view_as(p) for (name, p), t in zip(parameters.items(), pieces, strict=True)}
    return functional_call(module, shaped, (x,))


def loss_hessian(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Second derivative of the mean cross-entropy, `(P, P)`."""
    return hessian(lambda theta: F.cross_entropy(_logits(module, theta, x), y), flat(module))


def ggn(module: nn.Module, x: Tensor) -> Tensor:
    """1/N sum_n J_n^T (diag p_n - p_n p_n^T) J_n: the Fisher with the exact expectation over labels."""
    J = jacobian(lambda theta: _logits(module, theta, x), flat(module))
    p = module(x).detach().softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nkp,nkl,nlq->pq", J, inner, J) / len(x)


def fisher(
    module: nn.Module, x: Tensor, labels: Tensor, loss_of: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
) -> Tensor:
    """1/N sum_n g_n g_n^T with the gradient of each sample's own loss at the given labels."""
    rows = []
    for n in range(len(x)):
        loss = loss_of(module(x[n : n + 1]), labels[n : n + 1])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))]))
    return torch.stack(rows).T @ torch.stack(rows) / len(x)


# --- Theorem 1 --------------------------------------------------------------------------------------------------------


def theorem1(H: Tensor, theta: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Equations 3 and 4 of "Mask and understand" as printed: dtheta, u, and the loss change 1/2 u^T H^-1 u.

    Where w is 0 its product with the Hadamard inverse is 0, also if H^-1 w is 0 there.
    """
    inverse = torch.linalg.inv(H)
    u = torch.where(w > 0, theta / (inverse @ w), torch.zeros_like(theta))
    return -inverse @ u, u, 0.5 * u @ inverse @ u


def block(H: Tensor, theta: Tensor, S: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Exact block form: dtheta = -H^-1 E_S A^-1 theta_S and 1/2 theta_S^T A^-1 theta_S with A = [H^-1]_SS."""
    S = list(S)
    inverse = torch.linalg.inv(H)
    pulled = torch.linalg.solve(inverse[S][:, S], theta[S])
    return -inverse[:, S] @ pulled, 0.5 * theta[S] @ pulled


def retrained(H: Tensor, theta: Tensor, S: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Minimise 1/2 d^T H d subject to d_S = -theta_S over the free entries: what retraining the quadratic finds."""
    S = list(S)
    free = [i for i in range(len(theta)) if i not in S]
    d = torch.zeros_like(theta)
    d[S] = -theta[S]
    if free:
        d[free] = -torch.linalg.solve(H[free][:, free], H[free][:, S] @ d[S])
    return d, 0.5 * d @ H @ d


def eliminated(total: Callable[[list[int]], float], count: int) -> tuple[Tensor, list[int]]:
    """Greedy backward elimination of `count` things, every candidate set solved anew by `total`.

    Returns the total once each is gone, by thing, and the order of removal.
    """
    totals, gone = torch.zeros(count, dtype=torch.float64), []
    for _ in range(count):
        candidates = {p: total([*gone, p]) for p in range(count) if p not in gone}
        p = min(candidates, key=candidates.__getitem__)
        gone.append(p)
        totals[p] = candidates[p]
    return totals, gone


def prices(total: Callable[[list[int]], float], count: int) -> Tensor:
    """What each removal of the greedy order adds to the total, as a running maximum along the order."""
    totals, order = eliminated(total, count)
    added = totals[order].diff(prepend=totals.new_zeros(1)).cummax(0).values
    return torch.zeros_like(totals).index_put((torch.tensor(order),), added)


# --- columns and least squares ----------------------------------------------------------------------------------------


def columns(module: nn.Module, x: Tensor, *, ones: bool) -> Tensor:
    """Im2col by loops, zero padding only: `(G, I / G * K (+ 1), N * P)`."""
    if isinstance(module, nn.Linear):
        found = torch.stack(list(x.reshape(-1, x.shape[-1])), dim=1)[None]
    else:
        found = _conv_columns(module, x)
    return torch.cat([found, torch.ones_like(found[:, :1])], dim=1) if ones else found


def _conv_columns(module: nn.Module, x: Tensor) -> Tensor:
    N, inputs, *space = x.shape
    padded = torch.zeros(N, inputs, *(s + 2 * p for s, p in zip(space, module.padding, strict=True)), dtype=x.dtype)
    padded[(..., *(slice(p, p + s) for s, p in zip(space, module.padding, strict=True)))] = x
    geometry = list(zip(padded.shape[2:], module.kernel_size, module.stride, module.dilation, strict=True))
    positions = list(product(*(range((s - (k - 1) * d - 1) // step + 1) for s, k, step, d in geometry)))
    offsets = list(product(*(range(k) for k in module.kernel_size)))
    found = torch.empty(inputs, len(offsets), N, len(positions), dtype=x.dtype)
    for (k, offset), (p, position) in product(enumerate(offsets), enumerate(positions)):
        where = tuple(a * step + o * d for a, o, (_, _, step, d) in zip(position, offset, geometry, strict=True))
        found[:, k, :, p] = padded[(slice(None), slice(None), *where)].T
    return found.reshape(module.groups, inputs // module.groups * len(offsets), N * len(positions))


def rows(module: nn.Module, y: Tensor) -> Tensor:
    """Outputs in the order of `columns`, by loops: `(G, O / G, N * P)`."""
    groups = getattr(module, "groups", 1)
    per_sample = [
        sample.reshape(-1, y.shape[-1]).T if isinstance(module, nn.Linear) else sample.flatten(1) for sample in y
    ]
    wide = torch.cat(per_sample, dim=1)
    return torch.stack(wide.split(len(wide) // groups))


def least_squares(X: Tensor, Y: Tensor, near: Tensor | float = 0.0, ridge: float = 0.0) -> Tensor:
    """argmin_V |Y - V X|^2 + ridge |V - near|^2 per group, `(G, O / G, D)`; without ridge the one closest to `near`."""
    W = torch.zeros(len(X), Y.shape[1], X.shape[1], dtype=X.dtype) + near
    gap = Y - W @ X
    if ridge:  # as further columns, whose target is no change
        eye = ridge**0.5 * torch.eye(X.shape[1], dtype=X.dtype).expand(len(X), -1, -1)
        X, gap = torch.cat([X, eye], dim=2), torch.cat([gap, torch.zeros_like(W)], dim=2)
    steps = [torch.linalg.lstsq(a.T, b.T, driver="gelsd").solution.T for a, b in zip(X, gap, strict=True)]
    return W + torch.stack(steps)


# --- gates ------------------------------------------------------------------------------------------------------------


def gate_gradients(module: nn.Module, x: Tensor, labels: Tensor, readers: Mapping[str, Tensor]) -> Tensor:
    """dL_n/dg at g = 1, one sample after the other: `(N, C)`. L_n is the sample's own loss.

    `readers` maps a consumer module's name to the positions `(C, k)` of its weight's dimension 1 that each gate owns.
    The gates multiply the input of every module that holds that weight.
    """
    size = len(next(iter(readers.values())))
    weights = {id(module.get_submodule(name).weight): index for name, index in readers.items()}
    found = []
    for n in range(len(x)):
        gates = torch.ones(size, dtype=x.dtype, requires_grad=True)
        hooks = [
            owner.register_forward_pre_hook(partial(_gated, gates=gates, index=weights[id(owner.weight)]))
            for owner in module.modules()
            if id(getattr(owner, "weight", None)) in weights
        ]
        loss = F.cross_entropy(module(x[n : n + 1]), labels[n : n + 1])
        found.append(torch.autograd.grad(loss, gates)[0])
        for hook in hooks:
            hook.remove()
    return torch.stack(found)


def _gated(owner: nn.Module, args: tuple[Tensor], *, gates: Tensor, index: Tensor) -> tuple[Tensor]:
    (x,) = args
    width = owner.weight.shape[1]
    linear = isinstance(owner, nn.Linear)
    owns = torch.zeros(x.shape[-1 if linear else 1], len(gates), dtype=x.dtype)
    for c, positions in enumerate(index.tolist()):
        for i in positions:
            owns[i::width, c] = 1  # the same position in every group of a grouped convolution
    factor = 1 + owns @ (gates - 1)
    return (x * (factor if linear else factor.reshape(-1, *(1,) * (x.dim() - 2))),)


# --- labels -----------------------------------------------------------------------------------------------------------


def drawn_labels(logits: Tensor, seed: int, draws: int = 1) -> Tensor:
    """Labels from softmax(logits), as documented: multinomial draws of a CPU generator with this seed.

    One generator goes through the samples in order, `draws` times through each before the next; with several draws the
    result is `(draws, N)`.
    """
    generator = torch.Generator().manual_seed(seed)
    each = [p.expand(draws, -1) for p in logits.detach().double().softmax(1)]
    labels = torch.stack([torch.multinomial(p, 1, generator=generator)[:, 0] for p in each], 1)
    return labels if draws > 1 else labels[0]


# --- INF-CP -----------------------------------------------------------------------------------------------------------


def mask_gradients(module: nn.Module, x: Tensor, y: Tensor, name: str) -> Tensor:
    """|dL/dM| of a mask M = 1 as large as a weight (INF-CP eq. 5-7), L the mean cross-entropy."""
    weight = dict(module.named_parameters())[name].detach()
    mask = torch.ones_like(weight, requires_grad=True)
    loss = F.cross_entropy(functional_call(module, {name: mask * weight}, (x,)), y)
    return torch.autograd.grad(loss, mask)[0].abs()


def micro_convolution(influence: Tensor, kernel: Tensor) -> Tensor:
    """E_l: a convolution over the influences of each filter `(C, p, h, w)`, in units of the layer's mean: `(C,)`."""
    relative = influence / influence.mean()
    return F.conv2d(relative, kernel[None] / kernel.numel())[:, 0, 0, 0]


def printed_lambda(remaining: float, target: float) -> float:
    """Equation 9 of INF-CP exactly as printed: `remaining` is B_l/|C|, `target` T_l/|C|."""
    return 5.0 * abs(target + remaining - 1) if 1 - remaining >= target else 0.0


def gated(module: nn.Module, x: Tensor, gates: Mapping[str, tuple[int, Tensor]]) -> Tensor:
    """Logits with channels multiplied where modules read them: module -> (groups, factor of each input of a group)."""
    handles = []
    for name, (groups, factor) in gates.items():
        multiply = partial(_multiplied, factor=factor.repeat(groups))
        handles.append(module.get_submodule(name).register_forward_pre_hook(multiply))
    try:
        return module(x)
    finally:
        for handle in handles:
            handle.remove()


def _multiplied(owner: nn.Module, args: tuple[Tensor], *, factor: Tensor) -> tuple[Tensor]:
    if isinstance(owner, nn.Linear):
        return (args[0] * factor,)
    return (args[0] * factor.view(-1, *[1] * (args[0].dim() - 2)),)


# --- influence of data ------------------------------------------------------------------------------------------------


def sample_gradients(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each sample's own cross-entropy, `(N, P)`."""
    rows = []
    for n in range(len(x)):
        loss = F.cross_entropy(module(x[n : n + 1]), y[n : n + 1])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))]))
    return torch.stack(rows)


def data_influence(H: Tensor, train: Tensor, queries: Tensor) -> Tensor:
    """mean(queries)^T H^-1 g_n for gradients `train` (N, P) and `queries` (M, P): `(N,)`."""
    return train @ torch.linalg.solve(H, queries.mean(0))


def self_influence(H: Tensor, train: Tensor) -> Tensor:
    """g_n^T H^-1 g_n, `(N,)`."""
    return torch.einsum("np,np->n", train, torch.linalg.solve(H, train.T).T)


def forgetting_events(right: Sequence[Sequence[bool]]) -> list[int]:
    """For each sample, how often a right presentation is followed by a wrong one; its presentations in order."""
    return [sum(a and not b for a, b in pairwise(row)) for row in right]


# --- unlearning -------------------------------------------------------------------------------------------------------


def gif(H: Tensor, g: Tensor, T: Sequence[int], damping: float = 0.0) -> Tensor:
    """argmin_x |H_{:,T} x - g|^2 + damping^2 |x|^2 by its normal equations; all rows of H stay."""
    M = H[:, T]
    return torch.linalg.solve(M.T @ M + damping**2 * torch.eye(len(T), dtype=H.dtype), M.T @ g)


def fif(H: Tensor, g: Tensor, T: Sequence[int]) -> Tensor:
    """H_TT^-1 g_T."""
    return torch.linalg.solve(H[T][:, T], g[T])


def pif(H: Tensor, g: Tensor, T: Sequence[int]) -> Tensor:
    """(H^-1 g)_T."""
    return torch.linalg.solve(H, g)[T]


def group_influence(H: Tensor, K: Tensor, g: Tensor, p: float) -> Tensor:
    """Second-order group influence of Basu et al. (2020): sums over the group, weights of the rest 1 / (1 - p)."""
    first = torch.linalg.solve(H, g)
    return p * (1 - 2 * p) / (1 - p) ** 2 * first + p**2 / (1 - p) ** 2 * torch.linalg.solve(H, K @ first)


def gain_share(H: Tensor, g: Tensor, T: Sequence[int], x: Tensor) -> float:
    """Of what the quadratic 1/2 d^T H d - g^T d can gain by entries T alone, the share that x gains."""
    block, slope = H[T][:, T], g[T]
    best = 0.5 * float(slope @ torch.linalg.solve(block, slope))
    return float(slope @ x - 0.5 * x @ block @ x) / best


# --- two stages -------------------------------------------------------------------------------------------------------

Risk = Callable[..., Tensor]
"""A scalar function of parameters `(P,)` and of what else is given."""


def two_stages(
    G: Risk, F: Risk, f: Risk, start: tuple[Tensor, Tensor], case: tuple[Tensor, Tensor, float], eps: Tensor | float
) -> Tensor:
    """The test loss once both stages are solved anew, G with a sample upweighted by `eps`: Eq. 1 to 5, and 12, of MS.

    `start`: (W, U) and (W, Theta) near the two minima, W first. `case`: which entries of the second vector are W, which
    of it are held at the first stage's, and alpha of the squared distance that binds the other entries of W to it.
    """
    shared, held, alpha = case
    first = newton(lambda t: G(t, eps), start[0])
    W = torch.zeros_like(start[1]).index_put((shared,), first[: len(shared)])
    loose = torch.ones(len(W), dtype=torch.bool).index_put((held,), torch.tensor(False))
    moving = torch.zeros_like(loose).index_put((shared,), torch.tensor(True)) & loose

    def whole(t: Tensor) -> Tensor:
        return W.index_put((loose,), t)

    def second(t: Tensor) -> Tensor:
        return F(whole(t)) + alpha * (whole(t) - W)[moving].square().sum()

    return f(whole(newton(second, start[1][loose])))


def newton(risk: Risk, start: Tensor, steps: int = 5) -> Tensor:
    """The stationary point near another; differentiable in what else the risk depends on, by its last step."""
    t = start
    for _ in range(steps):
        gradient, H = grad(risk)(t.detach()), jacrev(jacrev(risk))(t.detach())
        t = t.detach() - torch.linalg.solve(H, gradient)
    return t


def algorithm_1(H: Tensor, FAA: Tensor, FAW: Tensor, fA: Tensor, fW: Tensor, g: Tensor) -> Tensor:
    """Lines 4 to 7 of Algorithm 1 of MS as printed, for gradients g `(m, P)` of pretraining samples; W comes first."""
    first = torch.linalg.solve(FAA, fA) @ FAW - fW
    concatenated = torch.cat([first, torch.zeros(len(H) - len(fW), dtype=H.dtype)])
    return g @ torch.linalg.solve(H, concatenated)


def equation_11(H: Tensor, FAA: Tensor, FAW: Tensor, fA: Tensor, fW: Tensor, g: Tensor) -> Tensor:
    """Eq. 11 of MS as printed, with I_{z,W} of Eq. 10 as printed."""
    I_zW = -torch.linalg.solve(H, g.T).T[:, : len(fW)]
    return I_zW @ (torch.linalg.solve(FAA, fA) @ FAW - fW)


def equation_14(H: Tensor, F: Tensor, fT: Tensor, fW: Tensor, alpha: float, g: Tensor) -> Tensor:
    """Eq. 13 with 14 of MS; F is the Hessian in (Theta, W), in the order of Eq. 14; W comes first in H."""
    count, eye = len(fW), torch.eye(len(F), dtype=F.dtype)
    shifted = F + torch.diag(torch.cat([torch.zeros(len(fT), dtype=F.dtype), torch.full_like(fW, 2 * alpha)]))
    moved = torch.linalg.solve(H, g.T)[:count]
    return torch.cat([fT, fW]) @ torch.linalg.solve(shifted, -2 * alpha * eye[:, -count:] @ moved)


def block_costs(inverses: Tensor, energy: Tensor, columns: Tensor) -> Tensor:
    r"""Loss change when a channel's columns are pinned at zero and all other entries of the weight adapt.

    .. math:: s_c = \tfrac12 \operatorname{tr}(G W_C ([A^{-1}]_{CC})^{-1} W_C^T)
                  = \tfrac12 \operatorname{tr}(([A^{-1}]_{CC})^{-1} [W^T G W]_{CC})

    The exact block form of Theorem 1 (MU eq. 3 and 4 with the block in place of its row sums) for H = G (x) A.

    Args:
        inverses: (A + damping I)^-1, `(D, D)`.
        energy: W^T G W, `(D, D)`; rows and columns of the bias are zero.
        columns: the columns of each channel, `(C, m)`.

    Returns:
        `(C,)`, in units of the loss (nats for cross-entropy); never negative.
    """
    own = inverses[columns[:, :, None], columns[:, None, :]]
    carried = energy[columns[:, :, None], columns[:, None, :]]
    costs: Tensor = 0.5 * (torch.linalg.inv(own) * carried.mT).sum((1, 2))
    return costs
