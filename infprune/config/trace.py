"""Training in two stages, and what `infprune trace` asks of them."""

from typing import Annotated, Any, Literal

from pydantic import Field

from infprune.config.section import Arguments, Section

_LABELS_TEXT: dict[str, Any] = {"expected": "a list of two or more labels >= 0"}
_PATTERNS_TEXT: dict[str, Any] = {"expected": "a list of texts"}
Labels = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2)]


class TraceConfig(Section):
    """Two stages, and what `infprune trace` asks of them; `train` and `finetune` are the recipes."""

    pretrain: Labels | None = Field(
        default=None,
        description="Labels of the data that the first stage learns; null: all.",
        json_schema_extra=_LABELS_TEXT,
    )
    finetune: Labels | None = Field(
        default=None,
        description="Labels that the second stage learns; null: all.",
        json_schema_extra=_LABELS_TEXT,
    )
    overlap: bool = Field(default=False, description="Whether both stages may learn the same labels of the same data.")
    finetune_data: Arguments = Field(
        default_factory=dict, description="Keys of section `data` that differ in the second stage."
    )
    pretrain_samples: int | None = Field(
        default=None, gt=1, description="Training samples of the first stage, drawn by `data.seed`; null: all."
    )
    finetune_samples: int | None = Field(
        default=None, gt=1, description="Training samples of the second stage, drawn by `data.seed`; null: all."
    )
    head: list[str] | None = Field(
        default=None,
        description="Layers that each stage has of its own, by patterns over module names; the last linear one of "
        "them is made as wide as the stage has classes. null: the last linear layer of the network.",
        json_schema_extra=_PATTERNS_TEXT,
    )
    frozen: list[str] | None = Field(
        default=None,
        description="Layers that fine-tuning leaves alone, by patterns; null: all but the head (case 1); []: none "
        "(case 2).",
        json_schema_extra=_PATTERNS_TEXT,
    )
    pretrain_checkpoint: str | None = Field(
        default=None, min_length=1, description="Weights of the first stage, instead of training them."
    )
    finetune_checkpoint: str | None = Field(
        default=None, min_length=1, description="Weights of the second stage, instead of training them."
    )
    alpha: float = Field(
        default=0.01, gt=0, description="Weight of |W - W_pretrain|^2 that stands for where fine-tuning began (Eq. 12)."
    )
    solver: Literal["normal-cg", "cg", "lsmr", "ldl"] = Field(
        default="normal-cg", description="`normal-cg`: on H^2 + damping, as printed; `ldl`: dense, small networks."
    )
    pretrain_damping: float = Field(
        default=1e-2,
        ge=0,
        description="First stage: added to H^2 by normal-cg and lsmr, to H by the others.",
    )
    finetune_damping: float = Field(default=1e-8, ge=0, description="The same of the second stage.")
    hessian_samples: int = Field(
        default=1000, gt=0, description="Training samples of the first stage from which its Hessian is estimated."
    )
    rtol: float = Field(default=1e-3, gt=0, lt=1, description="Relative residual of a solve to reach.")
    max_iterations: int = Field(default=200, gt=0, description="Iterations of a solve.")
    test: int | None = Field(
        default=None,
        ge=0,
        description="The prediction to trace: a sample of the second stage's test part, from 0; null: all of them.",
    )
    top: int = Field(default=12, gt=0, description="Examples shown at either end; the CSV file holds all.")
