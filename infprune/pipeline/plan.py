"""`infprune prune --dry-run`: what would be cut, and what that costs; nothing is corrected, trained or written."""

from infprune.config import Config
from infprune.errors import ConfigError
from infprune.pipeline import cutting, gates
from infprune.pipeline.bench import open_bench
from infprune.pipeline.memory import within_memory
from infprune.pipeline.prune_results import PlanResult
from infprune.pipeline.savings import sizes, timed, verified
from infprune.pipeline.score import measured, rows
from infprune.pipeline.search import predicted, settled
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress


@within_memory
def run(settings: Config, progress: Progress) -> PlanResult:
    """Score, select, cut and prove in memory, as `infprune prune` will: the same layers keep the same widths.

    Raises:
        ConfigError: the network would be trained before the cut.
    """
    if settings.finetune.method != "standard":
        raise ConfigError(
            f"--dry-run: finetune.method={settings.finetune.method} trains before it cuts; drop one of the two"
        )
    watch = Stopwatch()
    bench = open_bench(settings, "prune", watch)
    with watch.stage("score"):
        scores = measured(bench, progress)
    known = settled(bench, scores, watch, progress)
    bench = known.bench
    prune, session = bench.session.config.prune, bench.session
    with watch.stage("cut"):
        made = cutting.cut(
            bench.dense, bench.coupling, bench.layers, scores, bench.budget, bench.limits, session.example(8)
        )
    with watch.stage("latency"):
        latency = timed(bench, made.module)
    judged = gates.of_prune(session.config, latency, None)
    size = sizes(bench, made.plan)
    return PlanResult(
        model=session.model_name,
        data=session.data_name,
        criterion=scores.criterion,
        scope=prune.scope,
        rate=prune.rate,
        rate_achieved=made.plan.rate,
        channels=size.channels,
        params=size.params,
        macs=size.macs,
        bytes=size.bytes,
        latency_ms=latency,
        predicted=predicted(scores, made.plan),
        verified=verified(bench, made),
        layers=rows(bench.coupling, scores, made.plan, made.frozen),
        gates=judged,
        missed=gates.missed(judged),
        seconds=watch.seconds,
        search=known.search,
    )
