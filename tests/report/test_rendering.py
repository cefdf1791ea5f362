"""Results rendered at a fixed width, compared as text."""

import io
import json
from dataclasses import replace

import matplotlib.image as mpimg
import pytest
from rich.console import Console

from infprune.latency import Quartiles
from infprune.pipeline.compare_results import CompareResult, Contender, PairedLatency
from infprune.pipeline.prune_results import PlanResult, PruneResult, Verified
from infprune.pipeline.report_results import ReportResult, ReportRow
from infprune.pipeline.results import Accuracy, Change, EvaluateResult, Gate, LayerRow, ScoreResult, TrainResult
from infprune.report.as_json import to_json
from infprune.report.console import (
    show_compare,
    show_evaluate,
    show_plan,
    show_prune,
    show_report,
    show_score,
    show_train,
)
from infprune.report.figures import accuracy_png
from infprune.report.markdown import compare_markdown, prune_markdown, report_markdown
from infprune.report.terminal_plot import plot


def text(show, result, width=80):
    stream = io.StringIO()
    show(result, Console(file=stream, width=width))
    return stream.getvalue()


ROWS = [
    LayerRow("conv1", 8, 3, 0.25, [0.0, 1e-3, 2e-3, 3e-3, 4e-2]),
    LayerRow("head", 10, 10, 0.5, [], "it is an output of the network"),
]
PRUNED = PruneResult(
    model="net",
    data="digits",
    criterion="influence",
    scope="global",
    compensate="ls+bn",
    rate=0.5,
    rate_achieved=0.5,
    channels=Change(8, 4),
    params=Change(2000, 500),
    macs=Change(100_000, 25_000),
    bytes=Change(8000, 2000),
    latency_ms=Change(2.0, 1.0),
    accuracy=Accuracy(0.99, 0.5, 0.98),
    verified=Verified(3e-7, ["second: shape"], ["body.norm"]),
    layers=ROWS,
    missed=["accuracy 0.9800 is below --min-accuracy 0.985"],
    seconds={"score": 1.25, "cut": 0.25},
    artifact="runs/x/pruned.safetensors",
    run_dir="runs/x",
)


def row(criterion, rate, cut, fit, seeds=2):
    return ReportRow(criterion, rate, rate, 1 - rate, seeds, (cut, 0.01), (fit, 0.002), None)


REPORT = ReportResult(
    model="net",
    data="digits",
    dense=0.99,
    scope="global",
    compensate="ls",
    calibration=256,
    rows=[
        row("influence", 0.2, 0.9, 0.99),
        row("influence", 0.8, 0.5, 0.95),
        row("random", 0.2, 0.6, 0.98),
        row("random", 0.8, 0.1, 0.7),
    ],
    seconds={},
    files=["runs/x/report.png"],
    run_dir="runs/x",
)


def test_prune_table():
    shown = text(show_prune, PRUNED)
    for line in (
        "net on digits: influence, 50.0% removed",
        "│ params                │   2,000 │    500 │ 25.0% │",
        "│ latency, batch 1 (ms) │    2.00 │   1.00 │ 50.0% │",
        "Test accuracy: dense 0.9900 → after the cut 0.5000 → compensated 0.9800",
        "Proof: equal to the masked dense network, largest relative error 3.0e-07",
        "Frozen by the proof: second: shape",
        "Wrote runs/x/pruned.safetensors in 1.5 s",
        "Quality gate missed: accuracy 0.9800 is below --min-accuracy 0.985",
    ):
        assert line in shown, line


def test_score_table_fits_a_terminal():
    result = ScoreResult("influence", "loss (nats)", "net", 0.5, 256, ROWS, {}, "s.safetensors")
    shown = text(show_score, result)
    assert "│ conv1 │        8 │    3 │ 25.0% │ 0.0e+00 │ 2.0e-03 │ 4.0e-02 │" in shown
    assert "Not cut: head (10 channels): it is an output of the network" in shown
    assert "infprune prune --scores s.safetensors" in shown


def test_train_and_evaluate():
    epochs = [{"epoch": 1, "loss": 0.5, "train_accuracy": 0.8, "validation_accuracy": 0.75}]
    shown = text(show_train, TrainResult("train", "net", "digits", Change(0.1, 0.9), epochs, {"train": 2.0}, "m"))
    assert "│     1 │ 0.5000 │         0.8000 │              0.7500 │" in shown
    assert "Test accuracy: 0.1000 → 0.9000 (last epoch)" in shown
    shown = text(show_evaluate, EvaluateResult("net", "digits", 0.9, 0.25, 359, 0.9))
    assert shown == ("net on digits: test accuracy 0.9000  (the file records 0.9000), loss 0.2500 nats, 359 samples\n")


def test_report_tables_and_plot():
    shown = text(show_report, REPORT)
    assert "net on digits: test accuracy (%), compensated; dense 99.00" in shown
    assert "│ random    │ 98.00 ±0.20 │ 70.00 ±0.20 │" in shown
    assert "channels removed (%)" in shown
    assert "━━ influence" in shown
    assert shown.rstrip().endswith("Wrote runs/x/report.png")


def test_report_markdown():
    lines = report_markdown(REPORT).splitlines()
    assert lines[0] == "# net on digits"
    assert "| influence | 99.00 (0.20) | 95.00 (0.20) |" in lines
    assert "| random | 60.00 (1.00) | 10.00 (1.00) |" in lines
    assert "| influence | 80.0 | 20.0 |" in lines
    assert not any("finetuned" in line for line in lines)


def test_prune_markdown():
    shown = prune_markdown(PRUNED)
    assert "| macs | 100,000 | 25,000 | 25.0% |" in shown
    assert "Test accuracy: dense 0.9900, after the cut 0.5000, compensated 0.9800." in shown


def test_json_is_complete_and_finite():
    content = json.loads(to_json(PRUNED))
    assert content["accuracy"] == {"dense": 0.99, "cut": 0.5, "compensated": 0.98, "distilled": None, "finetuned": None}
    assert content["layers"][1]["frozen"] == "it is an output of the network"
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(replace(PRUNED, rate=float("nan")))


def test_figure_is_a_picture_and_always_the_same():
    first = accuracy_png(REPORT)
    assert first == accuracy_png(REPORT)
    pixels = mpimg.imread(io.BytesIO(first))
    height, width, _ = pixels.shape
    assert (width, height) == (1320, 2 * 456)
    assert len({tuple(p) for p in pixels[::5, ::5, :3].reshape(-1, 3).tolist()}) > 10  # lines, not a blank page


def test_plot_puts_points_where_they_belong():
    shown = plot({"up": [(0, 0), (10, 1)]}, width=10, height=5, x_label="x", y_label="y").plain.splitlines()
    rows = [line[8:] for line in shown[1:6]]
    assert rows[0].rstrip()[-1] != " "
    assert rows[0][0] == " "
    assert rows[4][0] != " "
    assert rows[4][-1] == " "
    assert shown[1].startswith("   1.0 │")
    assert shown[5].startswith("   0.0 │")


def test_plot_of_one_point():
    shown = plot({"a": [(50.0, 90.0)]}, x_label="x", y_label="y").plain
    assert sum(0x2800 < ord(c) < 0x2900 for c in shown) == 1


def timing(a, b, verdict):
    return PairedLatency(31, "cpu", 1, Quartiles(a, a, a), Quartiles(b, b, b), Quartiles(b / a, b / a, b / a), verdict)


COMPARED = CompareResult(
    data="digits",
    samples=1000,
    a=Contender("dense", "net", 0.99, 0.05, 2000, 100_000, 8000),
    b=Contender("runs/a|b<c`d.safetensors", "net", 0.97, 0.08, 500, 25_000, 2000),
    drop=0.02,
    agreement=0.975,
    kl=0.0125,
    latency_ms=timing(2.0, 1.0, "faster"),
    gates=[
        Gate("max-drop", 0.05, 0.02, passed=True, message="accuracy dropped by 0.0200, within --max-drop 0.05"),
        Gate("min-agreement", 0.99, 0.975, passed=False, message="agreement 0.9750 is below --min-agreement 0.99"),
    ],
    missed=["agreement 0.9750 is below --min-agreement 0.99"],
    seconds={"load": 1.0},
)


def test_compare_table():
    shown = text(show_compare, COMPARED, 100)
    for line in (
        "dense against runs/a|b<c`d.safetensors on digits",
        "│ test accuracy         │  0.9900 │ 0.9700 │ -0.0200 │",
        "│ macs                  │ 100,000 │ 25,000 │   25.0% │",
        "│ latency, batch 1 (ms) │    2.00 │   1.00 │   50.0% │",
        "Equal predictions: 97.50% of 1,000 test samples; mean KL divergence of B from A 0.0125 nats",
        "B is faster than A (31 alternating rounds on cpu)",
        "Quality gate passed: accuracy dropped by 0.0200, within --max-drop 0.05",
        "Quality gate missed: agreement 0.9750 is below --min-agreement 0.99",
    ):
        assert line in shown, line
    assert "B is as fast as A" in text(show_compare, replace(COMPARED, latency_ms=timing(1.0, 1.0, "same")), 100)


def test_compare_markdown_survives_any_name():
    shown = compare_markdown(COMPARED, "infprune compare dense x").splitlines()
    assert shown[0] == r"### dense against runs/a\|b&lt;c`d.safetensors on digits"
    assert shown[2] == r"| | `dense` | `runs/a\|b<c'd.safetensors` | change |"
    assert "| test accuracy | 0.9900 | 0.9700 | -0.0200 |" in shown
    assert "| pass | max-drop | accuracy dropped by 0.0200, within --max-drop 0.05 |" in shown
    assert "| **FAIL** | min-agreement | agreement 0.9750 is below --min-agreement 0.99 |" in shown
    assert shown[-2:] == ["$ infprune compare dense x", "```"]


def test_prune_page_is_complete():
    gates = [Gate("max-drop", 0.0, 0.01, passed=False, message="accuracy dropped by 0.0100, more than --max-drop 0.0")]
    shown = prune_markdown(replace(PRUNED, gates=gates, run_dir="runs/my net")).splitlines()
    for line in (
        "| **FAIL** | max-drop | accuracy dropped by 0.0100, more than --max-drop 0.0 |",
        "| `head` | 10 | 10 | it is an output of the network |",
        "Frozen by the proof: second: shape.",
        "Norms over the channels that stay: `body.norm`.",
        "Wrote `runs/x/pruned.safetensors` in 1.5 s. The same again:",
        "$ infprune prune -c 'runs/my net/config.yaml'",
    ):
        assert line in shown, line


def test_plan_table():
    result = PlanResult(
        model="net",
        data="digits",
        criterion="influence",
        scope="calibrated",
        rate=0.5,
        rate_achieved=0.5,
        channels=Change(8, 4),
        params=Change(2000, 500),
        macs=Change(100_000, 25_000),
        bytes=Change(8000, 2000),
        latency_ms=Change(2.0, 1.0),
        predicted=0.25,
        verified=Verified(3e-7, [], []),
        layers=ROWS,
        gates=[],
        missed=["latency 1 ms is above --max-latency 0.5"],
        seconds={"score": 1.25},
    )
    shown = text(show_plan, result)
    for line in (
        "net on digits: influence, 50.0% would be removed",
        "│ conv1 │        8 │    3 │ 25.0% │",
        "│ params                │   2,000 │    500 │ 25.0% │",
        "Predicted change of the logits before compensation (mean square): 0.25",
        "Dry run of 1.2 s: nothing was written",
        "Quality gate missed: latency 1 ms is above --max-latency 0.5",
    ):
        assert line in shown, line
    assert "Predicted" not in text(show_plan, replace(result, predicted=None))
