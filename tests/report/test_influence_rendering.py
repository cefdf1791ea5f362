"""validate, layers and features at a fixed width, as Markdown, CSV and PNG."""

import csv
import io
import json
from dataclasses import replace

import matplotlib.image as mpimg
import pytest
import torch
from rich.console import Console

from infprune.pipeline.influence_results import (
    Agreement,
    CurvatureRow,
    FeatureRow,
    FeaturesResult,
    FormRow,
    InfluenceRow,
    LayersResult,
    Panel,
    ValidateResult,
)
from infprune.report.as_json import to_json
from infprune.report.influence_figures import features_png, layers_png, loss_png, scatter_png
from infprune.report.influence_tables import (
    features_csv,
    layers_markdown,
    show_features,
    show_layers,
    show_validate,
    validate_markdown,
)

NONE = Agreement(None, None)
WEIGHTS = CurvatureRow("weights", "ggn", "cholesky", "block", 1234, 5678, 0.01, 0.0, 2e-11, 0.0101, 0.25)
GATES = CurvatureRow("gates", "gate Fisher", "cholesky", "bracket", 384, 1024, 0.0, 1.25e-5)


def form(name, share, loss, *, contained=None, load=0.5, infinite=0):
    some = Agreement(loss, 0.98)
    return FormRow(name, share, 9, 5, some, some, 0.875, some, some, NONE, infinite, contained, load)


VALIDATE = ValidateResult(
    "net",
    "cancer",
    WEIGHTS,
    0.12345,
    0.23456,
    [
        form("block", 0.0, 0.9999, load=0.0),
        form("bracket", 0.0, 0.9999, contained=5, load=0.0),
        form("block", 0.3, 0.9876),
        form("paper", 0.3, -0.25, infinite=2),
        form("bracket", 0.3, 0.9876, contained=4, load=None),
    ],
    2,
    {"fit": 0.5},
    ["runs/a/validate.json", "runs/[b]/x.png"],
    "runs/a",
)
LAYERS = LayersResult(
    "net",
    "digits",
    GATES,
    0.5,
    [
        InfluenceRow("[conv1]", 32, 0.012345, 0.0002, 0.0123, 0.0124, 2.5, None),
        InfluenceRow("conv2", 1234, None, 0.0, None, None, None, "a row sum is zero"),
    ],
    ["linear: it is an output of the network"],
    {},
    ["runs/l/layers.json"],
    "runs/l",
)
FEATURES = FeaturesResult(
    "net",
    "cancer",
    WEIGHTS,
    "linear.weight",
    0.98765,
    [FeatureRow("mean, radius", 0.001, 2), FeatureRow("[texture]", 0.25, 1), FeatureRow("area", None, 3)],
    None,
    2,
    {},
    ["runs/f/features.csv"],
    "runs/f",
)


def text(show, result, width=200):
    stream = io.StringIO()
    show(result, Console(file=stream, width=width))
    return stream.getvalue()


def cells(shown):
    """The rows of a Rich table."""
    return [[c.strip() for c in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]


def test_validate_for_people():
    shown = text(show_validate, VALIDATE)
    assert "net on cancer: predicted against retrained" in shown
    assert "curvature: ggn of 5,678 samples, 1,234 parameters; form: block; solver: cholesky" in shown
    assert "ridge 0.01, damping 0; eigenvalues about 0.01 to 0.25 without damping; |gradient| 2.0e-11." in shown
    assert cells(shown) == [
        ["single", "block", "1.000", "1.000", "0.875", "1.000", "1.000", "-", "0.00"],
        ["30% (9)", "block", "0.988", "0.988", "0.875", "0.988", "0.988", "-", "0.50"],
        ["30% (9)", "paper (2 infinite)", "-0.250", "-0.250", "0.875", "-0.250", "-0.250", "-", "0.50"],
    ]
    assert "Brackets that hold the exact quadratic value: 9 of 10." in shown
    assert "2 groups left out: retraining missed its tolerance" in shown
    assert "Wrote runs/[b]/x.png" in shown  # a name is not markup
    calm = text(show_validate, replace(VALIDATE, unconverged=0, rows=VALIDATE.rows[2:4]))
    assert "left out" not in calm
    assert "Brackets" not in calm


@pytest.mark.parametrize(
    ("show", "result"), [(show_validate, VALIDATE), (show_layers, LAYERS), (show_features, FEATURES)]
)
def test_tables_fit_a_terminal(show, result):
    table = [line for line in text(show, result, 80).splitlines() if line[:1] in "┏┃┡│└"]
    assert {len(line) for line in table} <= set(range(20, 81))
    assert len(table) >= 6


def test_validate_as_markdown():
    lines = validate_markdown(VALIDATE).splitlines()
    assert lines[0] == "# net on cancer: Theorem 1 against retraining"
    assert "Training loss 0.1235, test loss 0.2346." in lines[2]
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 5
    assert {line.count("|") for line in table} == {13}
    assert table[4] == "| 30% (9) | block | 0.988 | 0.98 | 0.988 | 0.98 | 0.875 | 0.988 | 0.988 | - |  | 0.50 |"
    assert "| 4/5 | - |" in table[6]


def test_layers_for_people():
    shown = text(show_layers, LAYERS)
    assert cells(shown) == [
        ["[conv1]", "32", "0.01235 [0.0123, 0.0124]", "0.0002", "2.5"],
        ["conv2", "1,234", "-", "0", "-"],
    ]
    assert "conv2: a row sum is zero" in shown
    assert "Left out: linear: it is an output of the network" in shown
    assert "384 gates; form: bracket; solver: cholesky; ridge 0, damping 1.25e-05." in shown
    lines = layers_markdown(LAYERS).splitlines()
    assert "| [conv1] | 32 | 0.01235 [0.0123, 0.0124] | 0.0002 | 2.5 |" in lines
    assert lines[-1] == "Left out: linear: it is an output of the network."


def test_features_for_people():
    shown = text(show_features, FEATURES)
    assert "test accuracy 0.9877" in shown
    assert "Read by: linear.weight. Space: weights" in shown
    assert cells(shown) == [["1", "[texture]", "0.25"], ["2", "mean, radius", "0.001"]]
    assert "3 features in all; the files hold every one." in shown
    assert "in all" not in text(show_features, replace(FEATURES, top=3))


def test_features_as_csv():
    rows = list(csv.reader(io.StringIO(features_csv(FEATURES))))
    assert rows == [
        ["feature", "influence", "rank"],
        ["mean, radius", "0.001", "2"],
        ["[texture]", "0.25", "1"],
        ["area", "", "3"],
    ]
    third = replace(FEATURES, rows=[FeatureRow("x", 1 / 3, 1)])
    assert float(list(csv.reader(io.StringIO(features_csv(third))))[1][1]) == 1 / 3  # every digit


@pytest.mark.parametrize("result", [VALIDATE, LAYERS, FEATURES])
def test_results_are_json(result):
    found = json.loads(to_json(result))
    assert found["schema_version"] == 1
    assert found["command"] == type(result).__name__.removesuffix("Result").lower()
    assert found["curvature"]["solver"] == "cholesky"


# --- figures ----------------------------------------------------------------------------------------------------------


def image(png):
    return torch.from_numpy(mpimg.imread(io.BytesIO(png))[..., :3].copy())


def coloured(png):
    """How many pixels are neither white, grey nor black."""
    pixels = image(png)
    return int(((pixels.max(2).values - pixels.min(2).values) > 0.2).sum())


def panel(share, groups, *, everything=False, infinite=False):
    removed = torch.zeros(groups, 12, dtype=torch.bool)
    removed[:, : 12 if everything else 3] = True
    actual, change = torch.randn(groups, 12).double(), torch.rand(groups).double()
    predicted = change.clone()
    if infinite:
        predicted[0] = float("inf")
    shift = {"block": 0.9 * actual, "paper": torch.full_like(actual, torch.nan) if infinite else actual}
    return Panel(share, removed, actual, change, shift, {"block": change, "paper": predicted})


@pytest.mark.parametrize("draw", [scatter_png, loss_png])
def test_scatter_plots(draw):
    rows = [form(f, s, 0.9) for s in (0.0, 0.3) for f in ("block", "paper")]
    both = draw([panel(0.0, 6), panel(0.3, 6)], rows)
    one = draw([panel(0.3, 60)], rows)
    assert image(both).shape[1] > 1.8 * image(one).shape[1]
    assert coloured(one) > 100
    assert draw([panel(0.3, 6, infinite=True)], rows)[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("draw", [scatter_png, loss_png])
@pytest.mark.parametrize("empty", [panel(0.3, 0), panel(0.3, 2, everything=True)])
def test_scatter_plots_of_nothing(draw, empty):
    """No group was retrained to the end; no parameter was kept."""
    assert image(draw([empty], [form("block", 0.3, None), form("paper", 0.3, None)])).shape[0] > 100


def test_layers_plot_grows_with_layers():
    many = replace(LAYERS, rows=[replace(LAYERS.rows[0], name=f"l{i}") for i in range(12)])
    few = image(layers_png(LAYERS))
    assert image(layers_png(many)).shape[0] > 2 * few.shape[0]
    assert coloured(layers_png(LAYERS)) > 1000


def test_a_feature_map_is_bright_where_influence_is():
    rows = [FeatureRow(f"pixel {i}", 1.0 if i in (5, 6) else 0.0, i + 1) for i in range(12)]
    result = replace(FEATURES, rows=rows, shape=[3, 4])
    pixels = image(features_png([result], ["map"])).mean(2)
    height, width = pixels.shape
    inside = pixels[int(0.15 * height) : int(0.85 * height), int(0.05 * width) : int(0.7 * width)]
    assert float((inside < 0.01).float().mean()) > 0.3  # ten of twelve are black
    assert image(features_png([result, FEATURES], ["map", "bars"])).shape[1] > 1.8 * width
