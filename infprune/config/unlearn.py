"""The section of `infprune unlearn`."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from infprune.config.section import Section

Method = Literal["gif", "fif", "pif", "if", "second-order"]
METHODS: tuple[str, ...] = get_args(Method)
Selected = Literal[
    "activation-high",
    "activation-low",
    "activation-above",
    "activation-exclusive",
    "gradient-high",
    "gradient-low",
    "gradient-above",
    "gradient-exclusive",
    "influence",
    "random",
]
SELECTIONS: tuple[str, ...] = get_args(Selected)


class UnlearnConfig(Section):
    """What is forgotten, which weights may change, and how the change is found."""

    forget: str | None = Field(
        default=None,
        pattern=r"^(class:[0-9]+|file:.+|backdoor)$",
        description="`class:N`, `file:PATH` (training samples, a subset file or indices) or `backdoor` (of the data).",
        json_schema_extra={"expected": "class:N, file:PATH or backdoor"},
    )
    objective: Literal["auto", "loss", "runner-up"] = Field(
        default="auto",
        description="`loss`: the loss of the forget set is to rise, and at the right labels, where these are known, to "
        "fall; `runner-up`: the network's second choice counts as the right label; `auto`: `runner-up` for a class.",
    )
    method: Method = Field(default="gif", description="How the change is found.")
    selection: Selected = Field(
        default="gradient-exclusive", description="Which filters of each convolution and linear layer may change."
    )
    ratio: float = Field(default=0.1, gt=0, le=1, description="Share of each layer's filters that may change.")
    threshold: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="`-above`: of the layer's highest value, from which on a filter may change.",
    )
    solver: Literal["auto", "lsmr", "landweber", "cg", "normal-cg", "cholesky", "ldl"] = Field(
        default="auto", description="`auto`: lsmr."
    )
    curvature: Literal["hessian", "ggn"] = Field(default="ggn", description="Which curvature of the training loss.")
    damping: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="Added to the Hessian (absolute); `auto`: 0.03 of its largest eigenvalue.",
        json_schema_extra={"expected": "a number >= 0 or auto"},
    )
    rtol: float = Field(default=1e-3, gt=0, lt=1, description="Relative residual of a solve.")
    max_iterations: int = Field(default=30, gt=0, description="Iterations of a solve.")
    applications: int = Field(default=5, gt=0, description="Changes at most, each from where the last one led.")
    lengths: list[Annotated[float, Field(gt=0)]] = Field(
        default=[0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0],
        min_length=1,
        description="Step lengths tried, and longer or shorter ones while an end is the best, shorter ones also while "
        "none is better than staying; 1 is what theory says.",
        json_schema_extra={"expected": "a list of numbers > 0"},
    )
    samples: int = Field(default=1024, gt=0, description="Training samples for the Hessian.")
    gradients: int | None = Field(
        default=None, gt=0, description="Training samples for a gradient; null: all. The first is of those to forget."
    )
    hessian_of: Literal["corrected", "learned"] = Field(
        default="corrected",
        description="Of training samples as they should have been learned (without the forget set, or with the labels "
        "that it should get), or as they were learned.",
    )
    finetune: bool = Field(default=True, description="Also fine-tune on the same data, for comparison.")
    retrain: bool = Field(default=False, description="Also train anew without the forget set (`--retrain`).")
