"""Configuration -> the live objects of a run: network, splits, device, coupling."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from infprune import __version__, config, ranks
from infprune.artifacts import InputSpec, Manifest
from infprune.coupling.groups import Coupling
from infprune.data import splits
from infprune.data.augment import AUGMENTATIONS
from infprune.data.dataset import Part, Samples, Splits, gather
from infprune.data.loaders import Batches, batches, subset
from infprune.data.subset_file import outline
from infprune.errors import ArchitectureError, ConfigError, InputError, out_of_memory
from infprune.files import atomic_writes, sha256
from infprune.forward import Inputs, move, picked, run, shape, tensors
from infprune.imports import one_line
from infprune.models import SHIPPED
from infprune.models.attention import Attention
from infprune.models.build import build
from infprune.models.checkpoint import digest, load_into, read_tensors
from infprune.modes import evaluating, resolved
from infprune.training import Recipe
from infprune.trial import settle

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Session:
    """A run's configuration with its data, device and output folder."""

    config: config.Config
    splits: Splits
    device: torch.device
    folder: Path

    @property
    def model_name(self) -> str:
        """The configured name or factory of the network."""
        return self.config.model.called

    @property
    def data_name(self) -> str:
        """The configured name or factory of the data."""
        return self.config.data.called

    @cached_property
    def data_identity(self) -> str:
        """What a resumed training must share: the data section as text, digests of the subset file and of the data."""
        chosen, train = self.config.data.subset, self.splits.train
        told = [self.config.data.model_dump_json(exclude={"subset"})]
        told += [] if chosen is None else [sha256(chosen)]
        return " ".join([*told, outline(train.base if isinstance(train, Part) else train)])

    def batches(self, samples: Samples, size: int | None = None) -> Batches:
        """Batches of a split, in order, on the device; `size`: None for one that shrinks with `data.batch_size`."""
        return batches(samples, size or min(EVALUATION_BATCH, 4 * self.config.data.batch_size), device=self.device)

    def calibration(self, seed: int | None = None) -> Batches:
        """The calibration samples, in batches."""
        return self.batches(self.calibration_samples(seed), self.config.data.batch_size)

    def calibration_samples(self, seed: int | None = None) -> Samples:
        """The calibration samples: drawn from the training split."""
        return subset(self.splits.train, self.config.data.calibration, self.config.run.seed if seed is None else seed)

    def example(self, count: int = 2) -> Inputs:
        """The first training inputs, as one batch."""
        first = [i % len(self.splits.train) for i in range(count)]
        return move(gather(self.splits.train, first)[0], self.device)

    @property
    def replay(self) -> dict[Path, str]:
        """The resolved configuration as a file of the run folder, to be written with the run's result."""
        return {self.folder / "config.yaml": config.dump(self.config)}

    def record(self) -> None:
        """Write the resolved configuration into the run folder; called when the run has its result."""
        atomic_writes(self.replay)

    def recipe(self, section: str) -> Recipe:
        """The recipe of the `train` or `finetune` section."""
        values = getattr(self.config, section).model_dump(exclude={"method"})
        values["batch_size"] = values["batch_size"] or self.config.data.batch_size
        return Recipe(**values, augment=self.config.data.augment, precision=self.precision)

    @property
    def precision(self) -> str:
        """The number format of passes over data, `float32` or `bf16`."""
        return resolved(self.config.run.precision, self.device)

    def augment(self) -> Any:
        """The configured augmentation of a batch of inputs."""
        return AUGMENTATIONS[self.config.data.augment]


def prepare(settings: config.Config) -> torch.device:
    """Set threads, seed and determinism, and choose the device."""
    if settings.run.threads is not None:
        torch.set_num_threads(settings.run.threads)
    torch.manual_seed(settings.run.seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.allow_tf32 = False  # the proof compares float32 to 1e-5
    torch.set_float32_matmul_precision("highest")
    return _device(settings.run.device)


def open_session(settings: config.Config, command: str) -> Session:
    """Prepare the process, load the data and fix the output folder."""
    ranks.alike("settings", settings.model_dump_json())
    device = prepare(settings)
    name = settings.model.called.replace(":", "-").rpartition("/")[2]
    folder = Path(settings.run.dir or f"runs/{name}-{command}")
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"dir": str(folder)})})
    d = settings.data
    data = splits.load(
        d.name,
        d.factory,
        Path(d.root) if d.root else None,
        download=d.download,
        args=d.args,
        validation=d.validation,
        seed=d.seed,
        subset=Path(d.subset) if d.subset else None,
    )
    ranks.alike("data", str([len(s) for s in (data.train, data.validation, data.test)]))
    return Session(settings, data, device, folder)


def open_model(session: Session, *, trained: bool = True) -> nn.Module:
    """Build the configured network with its weights (its initial ones if not `trained`), on the device, in eval mode.

    Raises:
        InputError: no weights, or weights of another network.
        ArchitectureError: it does not accept the data or returns no logits for its classes.
    """
    module = network(session.config, trained=trained).to(session.device).eval()
    check_logits(module, session)
    return module


def network(settings: config.Config, *, trained: bool = True) -> nn.Module:
    """Build the configured network with its weights, on the CPU.

    Raises:
        InputError: no weights, or weights of another network.
    """
    m = settings.model
    torch.manual_seed(settings.run.seed)  # the initial weights depend on the seed alone
    module = build(m.name, m.factory, dict(m.args))
    if trained and m.checkpoint != "random":
        path = SHIPPED.get(str(m.name)) if m.checkpoint == "shipped" else Path(m.checkpoint)
        if path is None:
            raise InputError(
                f"{m.called} comes without trained weights; set model.checkpoint=FILE, "
                "or run `infprune train` first (model.checkpoint=random scores an untrained network)"
            )
        load_into(module, read_tensors(path), str(path))
    return module


def check_logits(module: nn.Module, session: Session) -> None:
    """Run two samples: the network must accept them and return finite logits for all classes."""
    logits = picked(outputs(module, session.example(), session.model_name, session.data_name))
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < session.splits.classes:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ArchitectureError(
            f"{session.model_name}: expected logits (N, {session.splits.classes}) for {session.data_name}, got {got}"
        )
    if not bool(torch.isfinite(logits).all()):
        raise InputError(f"{session.model_name}: its outputs are not finite; check weights and data for NaN")


@torch.no_grad()
def outputs(module: nn.Module, example: Inputs, name: str, source: str) -> Any:
    """Whatever the network returns for a batch.

    Raises:
        ArchitectureError: it does not accept it; the message calls the network `name` and the batch's origin `source`.
    """
    try:
        with evaluating(module):
            return run(module, example)
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ArchitectureError(
            f"{name} does not accept inputs of shape {shape(example)} ({source}): {one_line(error)}"
        ) from error


def open_coupling(module: nn.Module, session: Session) -> Coupling:
    """Couple the network, traced and tried on two real samples."""
    return settle(module, session.example(), heads=session.config.prune.heads)


def provenance(session: Session) -> dict[str, Any]:
    """The configuration, versions and seed of a run; what depends on place or clock is left out."""
    settings = session.config.model_dump()
    settings["run"] = {key: settings["run"][key] for key in ("seed", "precision")}
    versions = {"infprune": __version__, "torch": torch.__version__.partition("+")[0]}
    return {"config": settings, "versions": versions, "seed": session.config.run.seed}


def manifest(session: Session, base: nn.Module, kept: dict[str, dict[int, Tensor]], **fields: Any) -> Manifest:
    """Describe a network that is about to be written."""
    return Manifest(
        name=session.config.model.name,
        factory=session.config.model.factory,
        args=session.config.model.args,
        kept={n: {d: at.tolist() for d, at in dims.items()} for n, dims in kept.items()},
        inputs=[spec_of(t) for t in tensors(session.example(1))],
        classes=session.splits.classes,
        explicit_attention=any(isinstance(m, Attention) for m in base.modules()),
        base_sha256=digest(base),
        **provenance(session),
        **fields,
    )


def spec_of(x: Tensor) -> InputSpec:
    """Describe one input batch: the shape of a sample, and its dtype."""
    return InputSpec(shape=list(x.shape[1:]), dtype=str(x.dtype).removeprefix("torch."))


def example_inputs(settings: config.Config, count: int, device: str | torch.device) -> Inputs:
    """Random inputs as `model.inputs` describes them, for work that needs no data; the same for the same `run.seed`.

    Raises:
        ConfigError: it describes none.
    """
    if settings.model.inputs is None:
        raise ConfigError("model.inputs: needed without data; give it, e.g. model.inputs='[{shape: [3, 224, 224]}]'")
    generator = torch.Generator().manual_seed(settings.run.seed)

    def random(spec: config.InputConfig) -> Tensor:
        size = (count, *spec.shape)
        if spec.dtype == "int64":
            return torch.randint(spec.high, size, generator=generator)
        return torch.randn(size, generator=generator)

    made = tuple(map(random, settings.model.inputs))
    return move(made if len(made) > 1 else made[0], device)


def describing(settings: config.Config, specs: list[InputSpec], source: object) -> config.Config:
    """The settings with `model.inputs`: their own, else those of the file or data."""
    if settings.model.inputs is not None:
        return settings
    try:
        inputs = [config.InputConfig.model_validate(spec.model_dump()) for spec in specs]
    except ValidationError as error:
        raise InputError(f"{source}: cannot draw such inputs ({specs}); describe others in model.inputs") from error
    return settings.model_copy(update={"model": settings.model.model_copy(update={"inputs": inputs})})


def _device(name: str) -> torch.device:
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        name = "cpu" if accelerator is None or accelerator.type not in available else accelerator.type
        name = "cpu" if name == "mps" and ranks.world() > 1 else name
    kind, _, index = name.partition(":")
    if not available[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise ConfigError(f"run.device: {name} is not available here; use auto or cpu")
    return torch.device(name) if ranks.world() == 1 else _device_of_rank(kind, index)


def _device_of_rank(kind: str, index: str) -> torch.device:
    if kind == "cpu":
        return torch.device(kind)
    if kind == "mps" or index:
        name = f"{kind}:{index}" if index else kind
        raise ConfigError(f"run.device: {name} cannot be used by several ranks; use cuda or cpu")
    if ranks.local_rank() >= torch.cuda.device_count():
        raise ConfigError(f"run.device: {torch.cuda.device_count()} GPUs here, one for each rank; start fewer ranks")
    torch.cuda.set_device(ranks.local_rank())
    return torch.device(kind, ranks.local_rank())
