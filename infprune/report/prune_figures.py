"""Figures of a pruned network: channels per layer, their scores, and the rates that a search tried."""

from collections.abc import Sequence

from infprune.pipeline.prune_results import PruneResult, Search
from infprune.pipeline.results import LayerRow
from infprune.report.axes import LETTER, Axis, fitted, frame, legend, marker, rows_axis
from infprune.report.scene import SMALL, WIDTH, Area, Label, Line, Scene, box, shortened

ROW = 17  # pixels from layer to layer
LETTERS = 22  # of a layer's name; the page's table has the whole


def prune_scenes(result: PruneResult) -> list[Scene]:
    """The figures that this result has the numbers for."""
    scenes = [kept_scene(result.layers)]
    if any(row.distribution for row in result.layers):
        scenes.append(scores_scene(result))
    if result.search is not None and result.search.probes:
        limit = next((gate.limit for gate in result.gates if gate.name == "max-drop"), None)
        scenes.append(rates_scene(result.search, limit))
        if any(probe.predicted is not None for probe in result.search.probes):
            scenes.append(prediction_scene(result.search))
    return scenes


def kept_scene(layers: Sequence[LayerRow]) -> Scene:
    """A bar per layer: channels that stay and that go."""
    told = [("square", "kept", "kept"), ("square", "gone", "removed"), ("square", "frozen", "not cut")]
    marks, top = legend(told if any(row.frozen for row in layers) else told[:2], 4)
    left, right = _names_width(layers), WIDTH - 62
    x = Axis(0, max(row.channels for row in layers), left, right)
    bottom = top + ROW * len(layers) + 4
    body: list[Line | Area | Label] = [*rows_axis(x, top, bottom, "channels"), *marks, *_names(layers, top, left)]
    for i, row in enumerate(layers):
        y, end, cut = top + ROW * i + 4, x.at(row.channels), x.at(row.kept)
        hint = f"{row.name}: {row.kept} of {row.channels} channels kept"
        role = "kept" if row.frozen is None else "frozen"
        body.append(box(left, y, cut - left, 11, role, hint if row.frozen is None else f"{hint}: {row.frozen}"))
        if end > cut:
            body.append(box(cut, y, end - cut, 11, "gone", hint))
        body.append(Label(WIDTH - 4, y + 10, f"{row.kept} / {row.channels}", "muted", "end"))
    cut_layers = sum(row.kept < row.channels for row in layers)
    words = f"One bar per layer, in the order of the network: {cut_layers} of {len(layers)} layers lose channels."
    return Scene("channels", "Channels kept per layer", words, bottom + 40, body)


def scores_scene(result: PruneResult) -> Scene:
    """A stroke at every 5 % of a layer's scores, in the colour of what became of those channels."""
    layers = [row for row in result.layers if row.distribution]
    learned = result.joint is not None and bool(result.joint.masks)  # then scores do not order what goes
    told = [("square", "kept", "kept"), ("square", "lost", "removed")] if not learned else []
    marks, top = legend(told, 4) if told else ([], 8.0)
    left = _names_width(layers)
    x = fitted((v for row in layers for v in row.distribution), left + 6, WIDTH - 14, log=True)
    bottom = top + ROW * len(layers) + 4
    label = f"score: {result.unit or result.criterion}"
    body: list[Line | Area | Label] = [*rows_axis(x, top, bottom, label), *marks, *_names(layers, top, left)]
    for i, row in enumerate(layers):
        y = top + ROW * i + 4
        places, last = [x.at(v) for v in row.distribution], len(row.distribution) - 1
        body.append(Line(((places[0], y + 5.5), (places[-1], y + 5.5)), "muted", 0.8))
        for p, place in enumerate(places):
            gone = round(p / last * (row.channels - 1)) < row.channels - row.kept
            body.append(Line(((place, y), (place, y + 11)), "lost" if gone and not learned else "kept", 1.4))
        low, mid, high = (row.distribution[k] for k in (0, last // 2, last))
        hint = f"{row.name}: least {low:.2g}, median {mid:.2g}, largest {high:.2g}"
        body.append(box(left, y - 3, WIDTH - 14 - left, ROW, "none", hint))
    words = "One row per layer: a stroke at every 5 % of its channels, ordered by score, on a common axis."
    if any(v < x.low for row in layers for v in row.distribution):
        words += f" Scores below {x.low:.0e} stand on its edge."
    return Scene("scores", "Scores of the channels of each layer", words, bottom + 40, body)


def rates_scene(search: Search, max_drop: float | None) -> Scene:
    """Validation accuracy at the rates that were tried, and the limit."""
    entries = [("circle", "c0", "rate tried"), ("diamond", "c1", "rate chosen")]
    marks, top = legend(entries, 4)
    floor = None if max_drop is None else search.dense - max_drop
    accuracies = [100 * v for v in (search.dense, floor, *(p.accuracy for p in search.probes)) if v is not None]
    x = fitted([100 * p.rate for p in search.probes] + [100 * search.rate], 56, WIDTH - 16)
    y = fitted(accuracies, 250, top + 6)
    body: list[Line | Area | Label] = [
        *frame(x, y, "channels removed (%)", "validation accuracy (%)"),
        *marks,
        Line(((x.start, y.at(100 * search.dense)), (x.end, y.at(100 * search.dense))), "ink", 1, dashed=True),
        Label(x.end - 2, y.at(100 * search.dense) - 5, "dense", anchor="end"),
    ]
    if floor is not None:
        at = y.at(100 * floor)
        body += [Line(((x.start, at), (x.end, at)), "ink", 1, dashed=True), Label(x.start + 4, at + 13, "allowed")]
    for probe in search.probes:
        shape, role = ("diamond", "c1") if probe.rate == search.rate else ("circle", "c0")
        hint = f"rate {probe.rate:.3f}: accuracy {probe.accuracy:.4f}"
        body.append(marker(shape, (x.at(100 * probe.rate), y.at(100 * probe.accuracy)), role, hint))
    words = f"{len(search.probes)} rates tried on validation samples; {100 * search.rate:.1f} % was chosen."
    words += "" if floor is None else ' Below the line "allowed", more accuracy is lost than --max-drop allows.'
    return Scene("rates", "Validation accuracy of the rates that were tried", words, 296, body)


def prediction_scene(search: Search) -> Scene:
    """Loss predicted from single layers against the loss measured, and the line of equality."""
    pairs = [(p, p.predicted) for p in search.probes if p.predicted is not None]
    values = [v for p, predicted in pairs for v in (p.measured, predicted)]
    x = fitted(values, 64, WIDTH - 24, log=True)
    y = fitted(values, 250, 14, log=True)
    body: list[Line | Area | Label] = [
        *frame(x, y, "loss measured", "loss predicted from single layers"),
        Line(((x.start, y.start), (x.end, y.end)), "ink", 1, dashed=True),
    ]
    for p, predicted in pairs:
        at = (x.at(p.measured), y.at(predicted))
        body.append(
            marker("circle", at, "c0", f"rate {p.rate:.3f}: predicted {predicted:.3g}, measured {p.measured:.3g}")
        )
    r = "" if search.correlation is None else f" Pearson's r is {search.correlation:.3f}."
    words = f"Mean squared change of the logits at {len(pairs)} rates, before distillation; the line is equality.{r}"
    return Scene("prediction", "Predicted against measured loss", words, 296, body)


def _names_width(layers: Sequence[LayerRow]) -> float:
    return 10 + LETTER * SMALL * max(min(len(row.name), LETTERS) for row in layers)


def _names(layers: Sequence[LayerRow], top: float, left: float) -> list[Label]:
    names = (shortened(row.name, LETTERS) for row in layers)
    return [Label(left - 6, top + ROW * i + 14, name, "ink", "end") for i, name in enumerate(names)]
