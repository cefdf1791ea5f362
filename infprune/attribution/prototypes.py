"""Distance to the nearest prototype: typical samples are near, odd ones far (Sorscher et al. 2022)."""

import warnings
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from infprune import ranks
from infprune.attribution.contract import Measured, Method, Need, Options, ScoringInputs
from infprune.data.loaders import Batches
from infprune.errors import ConfigError
from infprune.forward import Inputs, run


def compute(inputs: ScoringInputs) -> Measured:
    """Score every sample by its Euclidean distance to the nearest k-means centroid in an embedding.

    Sorscher et al. (2022), section 5, who embed without labels: unbalanced, `options.clusters` centroids in all and
    labels are not looked at. Balanced: that many per class, of the class's own samples. LARGER is farther, harder.
    `details["cluster"]`: the centroid's number.

    Raises:
        ConfigError: no such layer, or more centroids than samples.
    """
    assert inputs.module is not None
    E = embedded(inputs.module, inputs.batches(inputs.train), inputs.options.layer)
    distance, cluster = torch.zeros(len(E), dtype=torch.float64), torch.zeros(len(E), dtype=torch.float64)
    for c, at in enumerate(_groups(inputs.labels, inputs.options)):
        near, which = _nearest(E[at], inputs.options.clusters, inputs.seed)
        distance[at], cluster[at] = near, which + c * inputs.options.clusters
    return Measured(distance, details={"cluster": cluster}, facts={"dimensions": E.shape[1]})


@torch.no_grad()
def embedded(module: nn.Module, batches: Batches, layer: str | None) -> Tensor:
    """The outputs of a layer for every sample, maps averaged over their positions, `(N, D)` on the CPU.

    None: what the last linear layer reads.

    Raises:
        ConfigError: no such layer, or one that is not called, or no linear one to choose.
    """
    name, owner = chosen(module, layer)
    seen: list[Tensor] = []

    def after(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        seen.append(_flat(args[0] if layer is None else out, name))

    def visit(x: Inputs, _: Tensor) -> Tensor:
        seen.clear()
        run(module, x)
        if not seen:
            raise ConfigError(f"samples.layer: {name} is not called in eval mode; choose another")
        return seen[-1].cpu()

    handle = owner.register_forward_hook(after)
    try:
        return ranks.visited(batches, visit)
    finally:
        handle.remove()


def chosen(module: nn.Module, layer: str | None) -> tuple[str, nn.Module]:
    """The layer of that name; None: the last linear one.

    Raises:
        ConfigError: there is none; the message has the closest names.
    """
    present = {name: m for name, m in module.named_modules() if name}
    if layer is None:
        linear = [(name, m) for name, m in present.items() if isinstance(m, nn.Linear)]
        if not linear:
            raise ConfigError("samples.layer: the network has no linear layer to embed before; name a layer")
        return linear[-1]
    if layer not in present:
        near = get_close_matches(layer, present, 3, 0.4) or list(present)[:3]
        raise ConfigError(f"samples.layer: the network has no layer {layer!r}; the closest are {', '.join(near)}")
    return layer, present[layer]


def _flat(t: object, name: str) -> Tensor:
    if not isinstance(t, Tensor) or t.dim() < 2:
        raise ConfigError(f"samples.layer: {name} gives no tensor (N, ...); choose another")
    return t.detach().flatten(2).mean(2) if t.dim() > 3 else t.detach().flatten(1)


def _groups(labels: Tensor, options: Options) -> list[Tensor]:
    if not options.balanced:
        groups = [torch.arange(len(labels))]
    else:
        groups = [(labels == c).nonzero()[:, 0] for c in torch.unique(labels).tolist()]
    few = min(map(len, groups))
    if options.clusters > few:
        where = "a class has" if options.balanced else "there are"
        raise ConfigError(
            f"samples.clusters: expected at most {few}, {where} only {few} samples; got {options.clusters}"
        )
    return groups


def _nearest(E: Tensor, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """The distance of each row to its centroid, and the centroid's number."""
    from sklearn.cluster import KMeans  # noqa: PLC0415 - two seconds that other methods need not pay
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than centroids: some coincide
        found = KMeans(k, n_init=3, random_state=seed).fit(E.double().numpy())
    which = torch.from_numpy(found.labels_).long()
    centres = torch.from_numpy(found.cluster_centers_)
    return (E.double() - centres[which]).norm(dim=1), which.double()


PROTOTYPES = Method(compute, "distance", "odd: far from the prototypes of its class, or of all", Need.WEIGHTS)
