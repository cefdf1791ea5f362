"""The configuration as typed, frozen sections. Every field has a default, bounds and a description."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from infprune.config.samples import SamplesConfig
from infprune.config.section import Arguments, Section
from infprune.config.trace import TraceConfig
from infprune.config.unlearn import UnlearnConfig

Criterion = Literal["influence", "theorem1", "gate", "inf-cp", "taylor", "magnitude", "bn-scale", "random"]
CRITERIA: tuple[str, ...] = get_args(Criterion)

Curvature = Literal["ggn", "hessian", "fisher", "empirical-fisher", "kfac", "ekfac"]
Solver = Literal["auto", "cholesky", "ldl", "cg", "lsmr", "landweber", "neumann", "lissa", "normal-cg"]
Form = Literal["block", "paper", "bracket"]

_FACTORY = r"^[\w.]+:[\w.]+$"
_FACTORY_TEXT: dict[str, Any] = {"expected": "pkg.module:function"}
_BUDGET_TEXT: dict[str, Any] = {"expected": "a share in (0, 1] or a number > 1"}
_INPUTS_TEXT: dict[str, Any] = {
    "expected": "a list of {shape: [integers > 0], dtype: float32 or int64, high: an integer > 0}"
}
_MAX_SEED = 2**32 - 1  # numpy's generators take no more


class InputConfig(Section):
    """One input of the network: ``high`` is the exclusive upper bound of random integers."""

    shape: list[Annotated[int, Field(gt=0)]] = Field(description="Of one sample, without the batch.")
    dtype: Literal["float32", "int64"] = Field(default="float32", description="Its number format.")
    high: int = Field(default=2, gt=0, lt=2**63, description="Random int64 values lie below it, e.g. a vocabulary.")


class ModelConfig(Section):
    """The network and its weights."""

    one_of: ClassVar[tuple[str, ...]] = ("name", "factory")

    name: str | None = Field(
        default="digits_resnet",
        min_length=1,
        description="A built-in network (docs/reference/names.md), `torchvision:NAME` or `timm:NAME`.",
    )
    factory: str | None = Field(
        default=None,
        pattern=_FACTORY,
        description="Your own network, `pkg.module:function`; replaces `name`.",
        json_schema_extra=_FACTORY_TEXT,
    )
    args: Arguments = Field(default_factory=dict, description="Keyword arguments of the network's factory.")
    checkpoint: str = Field(
        default="shipped",
        min_length=1,
        description="`shipped` (the weights in the package), `random` (the initial weights) or a path.",
    )
    inputs: list[InputConfig] | None = Field(
        default=None,
        min_length=1,
        description="Shapes and dtypes of one sample's inputs, for commands that need no data (doctor, export); "
        "null: taken from the data.",
        json_schema_extra=_INPUTS_TEXT,
    )

    @property
    def called(self) -> str:
        """The name, or the factory instead of one."""
        return str(self.name or self.factory)


class DataConfig(Section):
    """The samples that train, score and judge."""

    one_of: ClassVar[tuple[str, ...]] = ("name", "factory")

    name: str | None = Field(
        default="digits", min_length=1, description="A built-in dataset (docs/reference/names.md)."
    )
    factory: str | None = Field(
        default=None,
        pattern=_FACTORY,
        description="Your own dataset, `pkg.module:function`; replaces `name`.",
        json_schema_extra=_FACTORY_TEXT,
    )
    args: Arguments = Field(default_factory=dict, description="Keyword arguments of the dataset's factory.")
    root: str | None = Field(default=None, min_length=1, description="The folder that holds the files.")
    download: bool = Field(default=False, description="Fetch missing files.")
    batch_size: int = Field(default=128, gt=0, description="Samples per batch.")
    calibration: int = Field(default=2048, gt=0, description="Training samples used to score and to compensate.")
    positions: int | None = Field(
        default=64,
        gt=0,
        description="Output positions per sample that stand for all of a layer's when scoring and compensating; "
        "null: all.",
    )
    validation: float = Field(default=0.1, gt=0, lt=1, description="Share of the training samples kept for validation.")
    seed: int = Field(
        default=0, ge=0, le=_MAX_SEED, description="Seed of the split into training and validation samples."
    )
    subset: str | None = Field(
        default=None,
        min_length=1,
        description="A subset file of `infprune data prune`: the training samples to use; null: all.",
    )
    augment: Literal["none", "crop", "crop-flip"] = Field(
        default="none", description="Random changes to the training images: shifts; shifts and mirrors."
    )

    @property
    def called(self) -> str:
        """The name, or the factory instead of one."""
        return str(self.name or self.factory)


class ScoreConfig(Section):
    """How the channels are ranked."""

    criterion: Criterion = Field(default="influence", description="What a channel is worth.")
    damping: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="Added to the curvature's diagonal (absolute), or `auto`.",
        json_schema_extra={"expected": "a number >= 0 or auto"},
    )
    file: str | None = Field(
        default=None, min_length=1, description="A scores file to reuse (`--scores`); null: score now."
    )
    trial_samples: int = Field(
        default=256,
        gt=0,
        description="Validation samples, drawn by `run.seed`, on which layers are narrowed one by one, for "
        "`prune.scope=calibrated`.",
    )
    samples_per_input: int = Field(
        default=1, gt=0, description="Labels drawn from the model per input, for the Fisher."
    )
    memory: float | None = Field(
        default=None,
        gt=0,
        description="GiB that scoring may take, as `infprune doctor --estimate` counts them: beyond, batches are taken "
        "in parts, and then several passes, with the factors of some layers each; where the smallest parts take more, "
        "nothing is scored and the error says how much is needed; null: nine tenths of the device's, without an error.",
    )


class PruneConfig(Section):
    """How much is cut, where, and what is done for the rest. One budget: rate, macs, params, bytes or latency."""

    one_of: ClassVar[tuple[str, ...]] = ("rate", "macs", "params", "bytes", "latency")

    rate: float | None = Field(default=0.5, ge=0, lt=1, description="Budget: share of the prunable channels removed.")
    macs: float | None = Field(
        default=None,
        gt=0,
        description="Budget: multiply-accumulates kept, a share up to 1 or a number; replaces `rate`.",
        json_schema_extra=_BUDGET_TEXT,
    )
    params: float | None = Field(
        default=None,
        gt=0,
        description="Budget: parameters kept, a share up to 1 or a number; replaces `rate`.",
        json_schema_extra=_BUDGET_TEXT,
    )
    bytes: float | None = Field(
        default=None,
        gt=0,
        description="Budget: bytes of all parameters and buffers kept, a share up to 1 or a number; replaces `rate`.",
        json_schema_extra=_BUDGET_TEXT,
    )
    latency: float | None = Field(
        default=None,
        gt=0,
        description="Budget: time of one sample kept, a share up to 1 or milliseconds, measured here; replaces `rate`.",
        json_schema_extra=_BUDGET_TEXT,
    )
    scope: Literal["calibrated", "global", "layer"] = Field(
        default="calibrated",
        description="One ranking of all channels by measured loss, one by bare scores, or one per layer.",
    )
    floor: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="At rate R a layer keeps max(1, ceil(floor * (1 - R) * C)) of C.",
    )
    round_to: int = Field(default=1, ge=1, description="Layer widths are multiples of this number.")
    per_layer: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(
        default_factory=dict,
        description="Layers, by patterns over module names, that lose this share whatever the budget.",
        json_schema_extra={"expected": "a mapping of patterns to shares in [0, 1)"},
    )
    heads: bool = Field(default=False, description="Cut attention heads whole, not the same index in every head.")
    protect: list[str] = Field(default_factory=list, description="Modules never cut: patterns over module names.")
    compensate: Literal["none", "ls", "ls+bn"] = Field(
        default="ls+bn", description="Least squares on the consumers, then batch-norm statistics."
    )
    distill: int = Field(
        default=4,
        ge=0,
        description="Passes over the calibration samples in which all weights follow the dense network's logits "
        "(no labels), once the cut is compensated; none at 0, with fewer than 512 samples, or before fine-tuning.",
    )
    ls_damping: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="Relative ridge of the least squares; `auto`: chosen per layer on held-out calibration samples.",
        json_schema_extra={"expected": "a number >= 0 or auto"},
    )
    finetune: bool = Field(default=False, description="Fine-tune after the cut (`--finetune`).")
    min_accuracy: float | None = Field(default=None, ge=0, le=1, description="Exit 5 below this test accuracy.")
    max_drop: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Exit 5 if test accuracy drops by more; where no budget is given, the largest rate within it is "
        "searched.",
    )
    max_latency: float | None = Field(
        default=None,
        gt=0,
        description="Exit 5 if the median time of one sample is above it: a share of the dense one up to 1, else ms.",
        json_schema_extra=_BUDGET_TEXT,
    )


class TrainConfig(Section):
    """The training loop."""

    epochs: int = Field(default=20, ge=0, description="Passes over the training samples.")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="The optimizer.")
    lr: float = Field(default=0.1, gt=0, description="The highest learning rate.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of sgd.")
    weight_decay: float = Field(default=5e-4, ge=0, description="Weight decay.")
    schedule: Literal["cosine", "constant"] = Field(default="cosine", description="The learning rate over time.")
    warmup_epochs: float = Field(default=0.0, ge=0, description="Epochs of linear warm-up.")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Weight of the uniform label.")
    ema: float | None = Field(default=None, gt=0, lt=1, description="Decay of the weights' moving average; null: none.")
    batch_size: int | None = Field(default=None, gt=0, description="Samples per step; null: `data.batch_size`.")
    clip_norm: float | None = Field(default=None, gt=0, description="Largest gradient norm; null: no clipping.")


class FinetuneConfig(TrainConfig):
    """The training loop after the cut; a subclass only because its defaults differ."""

    epochs: int = Field(default=2, ge=0, description="Passes over the training samples.")
    lr: float = Field(default=0.01, gt=0, description="The highest learning rate.")
    method: Literal["standard", "midway", "inf-cp", "slimming"] = Field(
        default="standard",
        description="`midway`: cut after part of the epochs; `inf-cp`, `slimming`: these epochs learn what to cut "
        "(`--method`; section `joint`).",
    )


class JointConfig(Section):
    """Pruning in the middle of fine-tuning, or learned by it (`finetune.method`)."""

    epochs: int | None = Field(
        default=None, gt=0, description="Of `finetune.epochs`, those before the cut; null: half, rounded up."
    )
    order: Literal["together", "layerwise"] = Field(
        default="together", description="inf-cp: all layers at once, or one after the other."
    )
    apart: bool = Field(default=True, description="inf-cp: convolutions first, then fully connected layers.")
    beta: float = Field(default=0.01, gt=0, description="inf-cp: beta_start of B = sigmoid(beta E).")
    growth: float = Field(default=100.0, ge=1, description="inf-cp: what beta is multiplied by in the end, at least.")
    lr: float = Field(default=0.01, gt=0, description="inf-cp: learning rate of the micro-convolutions (Adam).")
    decay: float = Field(default=0.95, ge=0, lt=1, description="inf-cp: memory of the influence, per mini-batch.")
    target: Literal["code", "embedding"] = Field(
        default="code", description="inf-cp: what equation 8 draws to T: `code` B, or `embedding` E as printed."
    )
    rescale: bool = Field(
        default=True, description="inf-cp: masks are B over its largest entry, so that training starts undisturbed."
    )
    l1: float = Field(default=1e-4, ge=0, description="slimming: weight of the L1 norm of batch-norm scales.")


class InfluenceConfig(Section):
    """Theorem 1 as an instrument: the curvature and how it is solved with (validate, layers, features)."""

    space: Literal["auto", "weights", "gates"] = Field(
        default="auto",
        description="Where the theorem is applied: weights, or gates that multiply channels (inputs, for `features`); "
        "`auto`: weights of small networks, else gates.",
    )
    form: Form = Field(
        default="block", description="`block`: exact for groups; `paper`: as printed; `bracket`: certified bounds."
    )
    curvature: Curvature = Field(
        default="ggn",
        description="Which curvature of the weights stands for the Hessian; kfac, ekfac: a Kronecker block per layer.",
    )
    ridge: float = Field(
        default=0.0,
        ge=0,
        description="Weight of 1/2 |theta|^2 in the loss that is fitted and differentiated.",
    )
    damping: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="Added to the curvature's diagonal besides the ridge (absolute), or `auto`; always reported.",
        json_schema_extra={"expected": "a number >= 0 or auto"},
    )
    solver: Solver = Field(default="auto", description="`auto`: cholesky for small networks, else cg.")
    rtol: float = Field(default=1e-3, gt=0, lt=1, description="Relative residual, or width of a bracket, to reach.")
    max_iterations: int = Field(default=200, gt=0, description="Iterations of a solver, per group.")
    fit: bool = Field(
        default=False,
        description="First minimise the loss on all training samples by Newton's method (small networks).",
    )
    memory: float = Field(default=2.0, gt=0, description="GiB of autograd graphs that are kept between products.")


class RetrainConfig(Section):
    """Predicted against retrained (`infprune validate`)."""

    sizes: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=[0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6],
        min_length=1,
        description="Shares of the parameters that a group holds; 0: a single parameter.",
        json_schema_extra={"expected": "a list of shares in [0, 1)"},
    )
    groups: int = Field(default=200, gt=0, description="Random groups per size.")
    forms: list[Form] = Field(
        default=["block", "paper", "bracket"],
        min_length=1,
        description="The forms of Theorem 1 that are compared.",
        json_schema_extra={"expected": "a list of block, paper, bracket"},
    )


class LayersConfig(Section):
    """Which groups `infprune layers` looks at."""

    modules: list[str] = Field(
        default=["*"], min_length=1, description="Patterns over the names of modules that own parameters."
    )
    groups: dict[str, dict[str, dict[int, list[int]] | None]] = Field(
        default_factory=dict,
        description="Groups of your own: {name: {parameter: null | {dimension: [indices]}}}.",
        json_schema_extra={"expected": "a mapping {name: {parameter: null or {dimension: [indices]}}}"},
    )


class FeaturesConfig(Section):
    """What `infprune features` shows."""

    top: int = Field(default=20, gt=0, description="Features in the printed table; the files hold all.")


class RunConfig(Section):
    """Where and how the command runs."""

    dir: str | None = Field(default=None, min_length=1, description="Output folder; null: `runs/<model>-<command>`.")
    output: str | None = Field(default=None, min_length=1, description="The file to write (`-o`); null: in `dir`.")
    seed: int = Field(default=0, ge=0, le=_MAX_SEED, description="Seed of everything random but the data split.")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?|mps)$",
        description="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`.",
        json_schema_extra={"expected": "one of auto, cpu, cuda, cuda:N, mps"},
    )
    precision: Literal["float32", "bf16", "auto"] = Field(
        default="float32",
        description="Number format of training and of the calibration pass; `auto`: bf16 where the device has "
        "instructions for it.",
    )
    threads: int | None = Field(default=None, gt=0, description="CPU threads; null: torch's choice.")


class Config(Section):
    """Everything a command needs to know."""

    model: ModelConfig = Field(default=ModelConfig(), description="The network and its weights.")
    data: DataConfig = Field(default=DataConfig(), description="The samples that train, score and judge.")
    score: ScoreConfig = Field(default=ScoreConfig(), description="How the channels are ranked.")
    prune: PruneConfig = Field(
        default=PruneConfig(), description="How much is cut, where, and what is done for the rest."
    )
    train: TrainConfig = Field(default=TrainConfig(), description="Training from the start.")
    finetune: FinetuneConfig = Field(default=FinetuneConfig(), description="Training after the cut.")
    joint: JointConfig = Field(
        default=JointConfig(), description="Pruning in the middle of fine-tuning, or learned by it (`finetune.method`)."
    )
    influence: InfluenceConfig = Field(
        default=InfluenceConfig(), description="The curvature, and how it is solved with (validate, layers, features)."
    )
    retrain: RetrainConfig = Field(default=RetrainConfig(), description="Predicted against retrained.")
    layers: LayersConfig = Field(default=LayersConfig(), description="Which groups `infprune layers` looks at.")
    features: FeaturesConfig = Field(default=FeaturesConfig(), description="What `infprune features` shows.")
    samples: SamplesConfig = Field(
        default=SamplesConfig(), description="Scores of training samples, and what is kept by them (`infprune data`)."
    )
    unlearn: UnlearnConfig = Field(
        default=UnlearnConfig(), description="What `infprune unlearn` takes back, and by which change of which weights."
    )
    trace: TraceConfig = Field(default=TraceConfig(), description="Two stages, and what `infprune trace` asks of them.")
    run: RunConfig = Field(default=RunConfig(), description="Where and how the command runs.")


SECTIONS: dict[str, type[Section]] = {name: type(field.default) for name, field in Config.model_fields.items()}
