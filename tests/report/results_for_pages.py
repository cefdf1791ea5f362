"""Results that pages are made of; in the hostile ones: markup, quotes, what XML forbids, Chinese, where users write."""

from dataclasses import replace

from infprune.pipeline.prune_results import Goal, Probe, PruneResult, Search, Verified
from infprune.pipeline.report_results import ReportResult, ReportRow
from infprune.pipeline.results import Accuracy, Change, Gate, JointTrace, LayerRow, Provenance

HOSTILE = "<script>alert('x')</script>\"&amp;\x00\ud800</title>]]>层"


def layer(name, channels, kept, low, **more):
    spread = [low * 1.5**i for i in range(21)]
    return LayerRow(name, channels, kept, 0.25, spread[::5], distribution=spread, **more)


ORIGIN = Provenance(
    versions={"infprune": "0.1.0", "torch": "2.9.0", "python": "3.11.7"},
    seed=3,
    device="cpu",
    threads=2,
    precision="float32",
    data={"name": "digits", "root": None, "calibration": 256},
    samples={"train": 1294, "validation": 144, "test": 359, "calibration": 256},
    base_sha256="a1" * 32,
    artifact_sha256="b2" * 32,
)
MASKS = [{"done": 1.0, "removed": 0.5, "layers": {"conv2": {"removed": 0.5, "lambda": 0, "beta": 0, "binarity": 1}}}]
PRUNED = PruneResult(
    model="net",
    data="digits",
    criterion="influence",
    scope="calibrated",
    compensate="ls+bn",
    rate=0.5,
    rate_achieved=0.4987,
    channels=Change(72, 36),
    params=Change(2000, 500),
    macs=Change(100_000, 25_000),
    bytes=Change(8000, 2000),
    latency_ms=Change(2.0, 1.0),
    accuracy=Accuracy(0.99, 0.5, 0.98),
    verified=Verified(3.2e-7, ["second: shape"], ["body.norm"]),
    layers=[
        layer("conv10", 32, 4, 1e-5),
        layer("conv9", 16, 12, 1e-4, inexact="body.norm"),
        layer("conv2", 24, 20, 1e-3),
        LayerRow("head", 10, 10, 0.5, [], "it is an output of the network"),
    ],
    missed=["accuracy 0.9800 is below --min-accuracy 0.985"],
    seconds={"score": 1.25, "cut": 0.25},
    artifact="runs/x/pruned.safetensors",
    run_dir="runs/x",
    unit="loss (nats)",
    goals=[Goal("rate", 0.5, 0.4987, True)],
    gates=[
        Gate("min-accuracy", 0.985, 0.98, False, "accuracy 0.9800 is below --min-accuracy 0.985"),
        Gate("max-drop", 0.02, 0.01, True, "accuracy dropped by 0.0100, within --max-drop 0.02"),
    ],
    search=Search(
        0.5, 0.99, [Probe(0.3, 0.01, 0.02, 0.99), Probe(0.5, 0.05, 0.06, 0.98), Probe(0.7, 2, 3, 0.8, 1.5)], 0.97
    ),
    joint=JointTrace("inf-cp", 1, [{"epoch": 1, "loss": 0.5, "validation_accuracy": 0.875}], 2e-6, MASKS),
    provenance=ORIGIN,
)
REPORT = ReportResult(
    model="net",
    data="digits",
    dense=0.99,
    scope="global",
    compensate="ls",
    calibration=256,
    rows=[
        ReportRow(name, rate, rate - 0.01, 1 - rate, 3, (cut, 0.01), (fit, 0.002), None)
        for name, rate, cut, fit in (
            ("influence", 0.2, 0.9, 0.989),
            ("influence", 0.8, 0.5, 0.95),
            ("random", 0.2, 0.6, 0.98),
            ("random", 0.8, 0.1, 0.7),
        )
    ],
    seconds={"score": 2.0},
    files=[],
    run_dir="runs/y",
    provenance=replace(ORIGIN, artifact_sha256=None),
)
HOSTILE_PRUNED = replace(
    PRUNED,
    model=HOSTILE,
    data=HOSTILE,
    layers=[replace(row, name=row.name + HOSTILE) for row in PRUNED.layers[:3]]
    + [LayerRow(HOSTILE, 10, 10, 0.5, [], HOSTILE, HOSTILE)],
    verified=Verified(3e-7, [HOSTILE], [HOSTILE]),
    missed=[HOSTILE],
    artifact=HOSTILE,
    run_dir=HOSTILE,
    provenance=replace(ORIGIN, data={"root": HOSTILE}),
)
HOSTILE_REPORT = replace(
    REPORT,
    model=HOSTILE,
    data=HOSTILE,
    run_dir=HOSTILE,
    rows=[replace(row, criterion=row.criterion + HOSTILE) for row in REPORT.rows],
    provenance=replace(ORIGIN, data={"root": HOSTILE}),
)
