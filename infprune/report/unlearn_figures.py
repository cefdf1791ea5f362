"""What was tried on the way to forgetting, as a figure."""

from infprune.pipeline.unlearn_results import UnlearnResult
from infprune.report.axes import fitted, frame, legend, marker
from infprune.report.scene import LARGE, Area, Label, Line, Scene

CURVES = {"kept": "c0", "forgotten": "c1", "relabelled": "c2", "attack": "c3"}
NAMES = {"kept": "kept", "forgotten": "forgotten", "relabelled": "with trigger, right", "attack": "attack"}
SHAPES = ("circle", "square", "diamond", "up")
BOTTOM, LEFT, RIGHT = 270.0, 52.0, 408.0


def lengths_scene(result: UnlearnResult) -> Scene:
    """Validation accuracies over the applications; within each, over the step lengths tried. A bar marks the choice."""
    trials, shown = result.trials, [key for key in CURVES if getattr(result.validation, key) is not None]
    entries = [(SHAPES[i], CURVES[key], NAMES[key]) for i, key in enumerate(shown)]
    marks: list[Line | Area | Label] = [Label(8, 18, "Validation split, in the order of trials", "ink", size=LARGE)]
    found, top = legend(entries, 26)
    marks += found
    x = fitted([0, max(len(trials), 1)], LEFT, RIGHT)
    y = fitted([0.0, 100.0], BOTTOM, top + 8)
    marks += frame(x, y, "trial (0: before)", "%")
    for place, trial in enumerate(trials, 1):
        if trial.chosen:
            marks.append(Line(((x.at(place), BOTTOM), (x.at(place), top + 8)), "muted", dashed=True))
    for i, key in enumerate(shown):
        values = [getattr(q, key) for q in (result.validation, *(t.quality for t in trials))]
        points = [(x.at(place), y.at(100 * value)) for place, value in enumerate(values)]
        marks.append(Line(points, CURVES[key], 1.5))
        hints = ["before", *(f"application {t.application}, length {t.length:g}" for t in trials)]
        marks += [
            marker(SHAPES[i], at, CURVES[key], f"{hint}: {NAMES[key]} {100 * value:.2f} %")
            for at, value, hint in zip(points, values, hints, strict=True)
        ]
    count = len(result.applications)
    text = f"{result.forget} by {result.method}: accuracies over the step lengths of {count} applications"
    return Scene("lengths", "Accuracy over the step lengths tried", text, BOTTOM + 44, marks)
