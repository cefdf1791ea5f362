"""`infprune evaluate`: accuracy of a written file, or of the configured network, on the test split."""

from pathlib import Path

from infprune.config import Config
from infprune.evaluation import evaluate
from infprune.pipeline.artifact import open_artifact
from infprune.pipeline.memory import within_memory
from infprune.pipeline.results import STAGES, EvaluateResult
from infprune.pipeline.session import open_model, open_session
from infprune.progress import Progress, told


@within_memory
def run(path: Path | None, settings: Config, progress: Progress) -> EvaluateResult:
    """Measure, and show the accuracy that the file claims beside it."""
    session = open_session(settings, "evaluate")
    recorded = None
    if path is None:
        module = open_model(session)
    else:
        loaded = open_artifact(path, session)
        module = loaded.module
        claimed = loaded.manifest.metrics.get("accuracy")
        stages = claimed if isinstance(claimed, dict) else {}
        recorded = next((stages[s] for s in reversed(STAGES) if stages.get(s) is not None), None)
    test = session.batches(session.splits.test)
    with progress.bar("evaluate", len(test)) as bar:
        found = evaluate(module, told(test, bar))
    return EvaluateResult(session.model_name, session.data_name, found.accuracy, found.loss, found.samples, recorded)
