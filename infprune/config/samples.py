"""The section of `infprune data`: how training samples are scored, and which of them are kept."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from infprune.config.section import Section

Method = Literal[
    "influence", "self-influence", "memorisation", "out-of-fold", "el2n", "grand", "forgetting", "prototypes", "random"
]
Strategy = Literal["hard", "easy", "middle"]
Balance = Literal["class", "none"]


def _named(value: object) -> object:
    """A layer's name: those of a `Sequential` are numbers, which YAML does not take for words."""
    return str(value) if type(value) is int else value


class SamplesConfig(Section):
    """Scores of training samples, and what is kept by them (`infprune data`)."""

    method: Method = Field(default="el2n", description="What a sample is worth; larger scores are more important.")
    queries: Literal["validation", "test"] = Field(default="validation", description="influence: on whose mean loss.")
    per_class: bool = Field(default=False, description="influence: one score per class of the queries.")
    seeds: int = Field(
        default=3,
        gt=0,
        description="Trainings of el2n, grand and forgetting, divisions of out-of-fold, seeds of `data curve`.",
    )
    epochs: int = Field(default=2, gt=0, description="el2n, grand: the first of `train.epochs`, after which they look.")
    subsets: int = Field(default=20, gt=1, description="memorisation: random subsets to train on.")
    share: float = Field(default=0.7, gt=0, lt=1, description="memorisation: share of the samples in each of them.")
    folds: int = Field(default=5, gt=1, description="out-of-fold: parts that are held out in turn.")
    layer: Annotated[str | None, BeforeValidator(_named)] = Field(
        default=None,
        min_length=1,
        description="prototypes: the layer whose outputs are the embedding; null: what the last linear layer reads.",
    )
    clusters: int = Field(default=1, gt=0, description="prototypes: of each class if balanced, else in all.")
    balanced: bool = Field(default=True, description="prototypes: of each class; false: labels are not looked at.")
    projection: int | None = Field(
        default=None, gt=0, description="self-influence: random directions instead of exact gradients; null: exact."
    )
    memory: float = Field(default=0.25, gt=0, description="GiB of gradients of single samples at a time.")
    keep: float = Field(default=0.5, gt=0, le=1, description="Share of the scored samples that `data prune` keeps.")
    strategy: Strategy = Field(
        default="hard", description="Keep the largest scores (`hard`), the smallest, or those around the median."
    )
    balance: Balance = Field(default="class", description="`class`: keep the same share of each class.")
    fractions: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default=[0.1, 0.2, 0.4, 0.6, 0.8],
        min_length=1,
        description="Shares that `data curve` keeps.",
        json_schema_extra={"expected": "a list of shares in (0, 1]"},
    )
    strategies: list[Strategy] = Field(
        default=["hard", "easy"],
        min_length=1,
        description="Strategies that `data curve` holds against random.",
        json_schema_extra={"expected": "a list of hard, easy, middle"},
    )
    equal: Literal["steps", "epochs"] = Field(
        default="steps",
        description="`data curve`: every network gets as many steps as one of all samples, or as many epochs.",
    )
    workers: int = Field(
        default=1, gt=0, description="Processes that train at once, each with `run.threads` threads; `--resume` works."
    )
