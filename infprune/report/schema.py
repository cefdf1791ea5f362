"""JSON Schemas of what the commands print with `--json` and of the manifests in the files: derived, not written."""

import json
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from infprune.artifacts import Manifest, ScoresManifest
from infprune.attribution.scores_file import SampleScoresManifest
from infprune.files import atomic_write
from infprune.pipeline.compare_results import CompareResult
from infprune.pipeline.contract import SCHEMA, Failure
from infprune.pipeline.data_inspect_results import InspectResult
from infprune.pipeline.data_results import DataCurveResult, DataPruneResult, DataScoreResult
from infprune.pipeline.doctor_results import DoctorResult
from infprune.pipeline.estimate_results import EstimateResult
from infprune.pipeline.export_results import ExportResult
from infprune.pipeline.influence_results import FeaturesResult, LayersResult, ValidateResult
from infprune.pipeline.prune_results import PlanResult, PruneResult
from infprune.pipeline.report_results import ReportResult
from infprune.pipeline.results import EvaluateResult, ScoreResult, TrainResult
from infprune.pipeline.trace_results import TraceResult
from infprune.pipeline.unlearn_results import UnlearnResult

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAMING = ("schema_version", "command")  # in every result, whatever its defaults

RESULTS: dict[str, Any] = {
    "compare": CompareResult,
    "data_curve": DataCurveResult,
    "data_inspect": InspectResult,
    "data_prune": DataPruneResult,
    "data_score": DataScoreResult,
    "doctor": DoctorResult | EstimateResult,
    "error": Failure,
    "evaluate": EvaluateResult,
    "export": ExportResult,
    "features": FeaturesResult,
    "finetune": TrainResult,
    "layers": LayersResult,
    "prune": PruneResult | PlanResult,
    "report": ReportResult,
    "score": ScoreResult,
    "trace": TraceResult,
    "train": TrainResult,
    "unlearn": UnlearnResult,
    "validate": ValidateResult,
}
MANIFESTS: dict[str, Any] = {
    "model-manifest": Manifest,
    "sample-scores-manifest": SampleScoresManifest,
    "scores-manifest": ScoresManifest,
}


def schema(name: str | None = None) -> str:
    """The schema of a command's result, of an error or of a manifest; without a name, of any result or error.

    Fields that came later than the first release of a version have defaults and are not required, and unknown fields
    are allowed: results of any release validate against the schema of any other of the same version.
    """
    kind = reduce(or_, RESULTS.values()) if name is None else (RESULTS | MANIFESTS)[name]
    found = TypeAdapter(kind).json_schema(mode="serialization", schema_generator=_Plain)
    for part in (found, *found.get("$defs", {}).values()):
        _require(part)
    head = {"$schema": DIALECT, "title": f"infprune {name or '--json'}, schema version {SCHEMA}"}
    return json.dumps(head | {key: value for key, value in found.items() if key != "title"}, indent=2) + "\n"


def publish(folder: Path) -> None:
    """Write every schema into a folder, as `NAME.json`."""
    for name in RESULTS | MANIFESTS:
        atomic_write(folder / f"{name}.json", schema(name))


class _Plain(GenerateJsonSchema):
    """Without a title for every field: it repeats the name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """None."""
        del schema
        return False


def _require(part: dict[str, Any]) -> None:
    """Name and version are always there; nothing is forbidden that a later release may add."""
    if "properties" in part:
        part.pop("additionalProperties", None)
    names = [key for key in NAMING if key in part.get("properties", {})]
    if names:
        part["required"] = sorted({*part.get("required", []), *names})
