"""INF-CP (CP section 2): which channels stay is learned while the network is fine-tuned."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from infprune.coupling.groups import ChannelLayer
from infprune.curvature.products import filters
from infprune.forward import Inputs
from infprune.joint import micro_convolution as micro
from infprune.joint.gates import Gates
from infprune.joint.weight_influence import WeightInfluence
from infprune.selection import PruningPlan
from infprune.training import Plugin

Select = Callable[[Mapping[str, Tensor]], PruningPlan]
"""Scores of all channels by layer, larger = keep -> the plan that meets the budget and its floors."""

SPREAD = 10.0  # mean |E_l| at first: beta = 0.01 then leaves B_l near 1/2, and 100 times that makes it binary
WARM_UP = 0.1  # share of a phase that only measures influence
SETTLE = 0.2  # share of a phase, at its end, in which the decided gates close and open for good
RECORDS = 50  # of a whole run, for the plot


@dataclass(frozen=True)
class Settings:
    """`beta`: at the start, `growth`: its factor over a phase, at least. `lr`: of the micro-convolutions (Adam).

    `decay`: per mini-batch, of the running influence. `order`: "together", or "layerwise" from the input on. `apart`:
    convolutions first, then fully connected layers. `target`: what is drawn to T_l, the "code" B_l or, as eq. 8 prints
    it, the "embedding" E_l. `rescale`: see `micro_convolution.gate`; without it the mask is B_l itself. `every`: steps
    between two targets.
    """

    beta: float = 0.01
    growth: float = 100.0
    lr: float = 0.01
    decay: float = 0.95
    order: str = "together"
    apart: bool = True
    target: str = "code"
    rescale: bool = True
    every: int = 10


@dataclass(frozen=True)
class Record:
    """A moment of the training, by layer: shares removed, lambda, beta, binarity of B_l, and the phase it is in.

    `done`: share of the steps; `removed`: of all channels, counted by their gates.
    """

    done: float
    removed: float
    layers: dict[str, dict[str, float]]


class InfCp(Plugin):
    """Masks that are learned in phases, each for some layers: measure, learn, decide, settle.

    *Measure*: the network trains as it is, mask gradients are collected. *Learn*: E_l, B_l and the gates follow from
    them through the micro-convolutions, which learn from the classification loss and from lambda |B_l - T_l|^2; beta
    rises. *Decide*: the plan that meets the budget, on influence times B_l, so that what the training has closed goes
    first. *Settle*: gates move on a line to their decided 0 or 1, and stand there for the last steps, so that surgery
    changes nothing.
    """

    def __init__(self, module: nn.Module, layers: Sequence[ChannelLayer], select: Select, settings: Settings) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._select, self._settings = select, settings
        self._gates = Gates(module, layers)
        self._phases = _phases(module, layers, settings)
        self._ends = [*accumulate(len(phase) / len(self._layers) for phase in self._phases)]
        self.influence = WeightInfluence(layers, settings.decay)
        self._steps, self._done, self._phase = 0, 0.0, 0
        self._learners: dict[str, _Learner] = {}
        self._targets: dict[str, Tensor] = {}
        self._decided: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._codes: dict[str, tuple[Tensor, Tensor]] = {}
        self.history: list[Record] = []

    # --- the training loop's side

    def logits(self, module: nn.Module, x: Inputs) -> Tensor:
        """Run the network with false pruning."""
        return self._gates.logits(module, x, self._current(learn=True))

    def penalty(self) -> Tensor | None:
        """The sum over layers of lambda_l |B_l - T_l|^2 (CP eq. 8)."""
        terms = []
        for name, (e, b) in self._codes.items():
            weight = self._lambda(name, b)
            if weight > 0:
                drawn = b if self._settings.target == "code" else e
                terms.append(weight * (drawn - self._targets[name].to(drawn)).square().sum())
        return torch.stack(terms).sum() if terms else None

    def observe(self, module: nn.Module) -> None:
        """Collect the mask gradients of the batch."""
        self.influence.observe(module, self._active())

    def step(self, done: float) -> None:
        """Move the micro-convolutions, the targets, beta and the phase on."""
        self._steps += 1
        passed, self._done = done - self._done, done
        for learner in self._learners.values():
            learner.step()
        while self._phase < len(self._phases):
            self._advance(passed)
            if self._local() < 1:
                break
            self._phase, passed = self._phase + 1, 0.0
            self._learners, self._before = {}, {}
        if done * RECORDS >= len(self.history) + 1 - 1e-9 or done >= 1:
            self.history.append(self._record())

    def view(self, module: nn.Module) -> nn.Module:
        """The network with its gates worked in."""
        return self._gates.applied(module, self._current(learn=False))

    def note(self) -> str:
        """Where the masks are."""
        layers = self.history[-1].layers.values() if self.history else []
        if not layers:
            return ""
        mean = {key: sum(row[key] for row in layers) / len(layers) for key in ("lambda", "beta", "binarity")}
        told = "  ".join(f"{key} {value:.2g}" for key, value in mean.items())
        return f"removed {self.history[-1].removed:.1%}  {told}"

    def plan(self) -> PruningPlan:
        """What was decided; decides at once whatever the training has not come to."""
        self._done = 1.0
        for phase in self._phases:
            if not all(name in self._decided for name in phase):
                self._decide(phase)
        self._phase = len(self._phases)
        return PruningPlan({name: self._decided[name].bool().cpu() for name in self._layers})

    # --- phases

    def _active(self) -> list[str]:
        return self._phases[self._phase] if self._phase < len(self._phases) else []

    def _local(self) -> float:
        """How far the present phase has come, 0 to 1."""
        start = self._ends[self._phase - 1] if self._phase else 0.0
        return min(1.0, (self._done - start + 1e-9) / (self._ends[self._phase] - start))

    def _advance(self, passed: float) -> None:
        local, names = self._local(), self._active()
        if local < WARM_UP or any(name not in self.influence.weights for name in names):
            return
        if not self._learners and names[0] not in self._decided:
            self._aim()
            self._learners = {name: self._learner(name) for name in names}
        if local >= 1 - SETTLE:
            if names[0] not in self._decided:
                self._decide(names)
            return
        if self._steps % self._settings.every == 0:
            self._aim()
        span = self._ends[self._phase] - (self._ends[self._phase - 1] if self._phase else 0.0)
        progress = (local - WARM_UP) / (1 - SETTLE - WARM_UP)
        for name, learner in self._learners.items():
            learner.warm(self._settings, progress, passed / span, micro.binarity(self._code(name)[1]))

    def _aim(self) -> None:
        """T_l: the plan that meets the budget by channel influence alone, over the whole model (CP section 2.4)."""
        self._targets = {name: mask.float() for name, mask in self._select(self._scores({})).masks.items()}

    def _scores(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Influence of all channels (nats), times B_l where it is learned; what is decided goes first or last."""
        scores = {}
        most = max(float(v.max()) for v in self.influence.channels.values()) or 1.0  # a perfect fit has none
        for name, value in self.influence.channels.items():
            score = value.double().cpu()
            if name in codes:
                score = score * codes[name].double().cpu()
            if name in self._decided:
                score = 1e3 * (most + score) * self._decided[name].double().cpu()
            scores[name] = score
        return scores

    def _learner(self, name: str) -> "_Learner":
        influence = self.influence.weights[name]
        even = micro.embedding(influence, torch.ones_like(influence[0]))
        ranked = even.sort().values
        gone = int((self._targets[name] == 0).sum())
        threshold = float(ranked[max(gone - 1, 0) : gone + 1].mean()) if gone else 0.5 * float(ranked[0])
        scale = SPREAD / max(float((even - threshold).abs().mean()), 1e-12)
        return _Learner(influence.shape[1], threshold, scale, self._settings, influence)

    def _decide(self, names: Sequence[str]) -> None:
        """Fix the plan of some layers."""
        codes = {name: self._code(name)[1].detach() for name in names if name in self._learners}
        self._before = {name: micro.gate(b) if self._settings.rescale else b for name, b in codes.items()}
        plan = self._select(self._scores(codes))
        for name in names:
            like = self.influence.channels[name]
            self._decided[name] = plan.masks[name].to(like)
            self._before.setdefault(name, torch.ones_like(like))
        self._learners = {}

    # --- gates

    def _code(self, name: str) -> tuple[Tensor, Tensor]:
        """E_l and B_l."""
        learner, influence = self._learners[name], self.influence.weights[name]
        with torch.autocast(influence.device.type, enabled=False):
            embedded = learner.embedding(influence)
            return embedded, micro.code(embedded, learner.beta)

    def _current(self, *, learn: bool) -> dict[str, Tensor]:
        """The gates of this step, by layer; without an entry a layer is whole."""
        active = set(self._active())
        gates = {name: decided for name, decided in self._decided.items() if name not in active}
        if active and next(iter(active)) in self._decided:
            q = min(1.0, (self._local() - (1 - SETTLE)) / (0.75 * SETTLE))
            for name in active:
                gates[name] = self._before[name].lerp(self._decided[name], q)
        found = {name: self._code(name) for name in self._learners}
        for name, (_, b) in found.items():
            gates[name] = micro.gate(b) if self._settings.rescale else b
        if learn:
            self._codes = found
        return gates

    def _lambda(self, name: str, strategy: Tensor) -> float:
        kept = float((micro.gate(strategy) if self._settings.rescale else strategy).detach().mean())
        return micro.weight_of_penalty(kept, float(self._targets[name].mean()))

    # --- records and checkpoints

    def _record(self) -> Record:
        gates = self._current(learn=False)
        layers, gone = {}, 0.0
        for name, layer in self._layers.items():
            kept = float(gates[name].detach().mean()) if name in gates else 1.0
            gone += (1 - kept) * layer.size
            learner = self._learners.get(name)
            b = self._code(name)[1].detach() if learner else None
            layers[name] = {
                "removed": 1 - kept,
                "lambda": self._lambda(name, b) if b is not None else 0.0,
                "beta": learner.beta if learner else 0.0,
                "binarity": micro.binarity(b if b is not None else gates[name]) if name in gates else 0.0,
            }
        return Record(self._done, gone / sum(layer.size for layer in self._layers.values()), layers)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "influence": self.influence.state(),
            "steps": self._steps,
            "done": self._done,
            "phase": self._phase,
            "learners": {name: learner.state() for name, learner in self._learners.items()},
            "targets": self._targets,
            "decided": self._decided,
            "before": self._before,
            "history": [asdict(record) for record in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.influence.restore(state["influence"])
        self._steps, self._done, self._phase = state["steps"], state["done"], state["phase"]
        self._targets, self._decided, self._before = state["targets"], state["decided"], state["before"]
        self._learners = {}
        for name, saved in state["learners"].items():
            influence = self.influence.weights[name]
            learner = _Learner(influence.shape[1], 0.0, 1.0, self._settings, influence)
            learner.restore(saved)
            self._learners[name] = learner
        self.history = [Record(**record) for record in state["history"]]


class _Learner:
    """The micro-convolution of a layer, its optimizer and its beta."""

    def __init__(self, size: int, threshold: float, scale: float, settings: Settings, like: Tensor) -> None:
        self.kernel = nn.Parameter(torch.ones(size, dtype=like.dtype, device=like.device))
        self.bias = nn.Parameter(torch.zeros((), dtype=like.dtype, device=like.device))
        self.threshold, self.scale = threshold, scale
        self.beta, self._gain = settings.beta, 1.0
        self._optimizer = torch.optim.Adam([self.kernel, self.bias], settings.lr)

    def embedding(self, influence: Tensor) -> Tensor:
        """E_l, about 0 at the threshold."""
        return self.scale * (micro.embedding(influence, self.kernel) - self.threshold - self.bias)

    def step(self) -> None:
        """Follow the gradients of the last batch."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def warm(self, settings: Settings, progress: float, passed: float, binarity: float) -> None:
        """Raise beta along its schedule, faster where B_l is less binary than the phase is old.

        `passed`: share of the phase since the last call. The gain may grow a hundredfold in a tenth of a phase.
        """
        rate = math.exp(math.log(100) * passed / 0.1)
        self._gain = self._gain * rate if binarity < progress else max(1.0, self._gain / rate)
        self.beta = settings.beta * settings.growth**progress * self._gain

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "kernel": self.kernel.detach(),
            "bias": self.bias.detach(),
            "optimizer": self._optimizer.state_dict(),
            "threshold": self.threshold,
            "scale": self.scale,
            "beta": self.beta,
            "gain": self._gain,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        with torch.no_grad():
            self.kernel.copy_(state["kernel"])
            self.bias.copy_(state["bias"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.threshold, self.scale = state["threshold"], state["scale"]
        self.beta, self._gain = state["beta"], state["gain"]


def _phases(module: nn.Module, layers: Sequence[ChannelLayer], settings: Settings) -> list[list[str]]:
    """Layers by phase: all at once or one by one, convolutions before fully connected ones."""
    named = dict(module.named_parameters())
    convolutional = {layer.name for layer in layers if any(named[s.tensor].dim() > 2 for s in filters(layer))}
    first = [layer.name for layer in layers if layer.name in convolutional]
    rest = [layer.name for layer in layers if layer.name not in convolutional]
    kinds = [kind for kind in (first, rest) if kind] if settings.apart else [[layer.name for layer in layers]]
    return kinds if settings.order == "together" else [[name] for kind in kinds for name in kind]
