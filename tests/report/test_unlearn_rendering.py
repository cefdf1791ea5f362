"""What `infprune unlearn` prints and draws, of a made-up result."""

import io
from dataclasses import replace

from rich.console import Console

from infprune.pipeline.unlearn_results import Application, Quality, Retrained, SelectedRow, Trial, UnlearnResult
from infprune.report.png import png
from infprune.report.unlearn_figures import lengths_scene
from infprune.report.unlearn_tables import show_unlearn, unlearn_markdown

BEFORE = Quality(0.99, 0.98, None, 0.1, 1.0, 0.9, 0.51)
AFTER = Quality(0.97, 0.96, None, 0.95, 0.115, 0.02, 0.5)
RESULT = UnlearnResult(
    model="net|x",
    data="[red]set",
    forget="backdoor",
    method="gif",
    selection="random",
    ratio=0.05,
    solver="lsmr",
    damping=0.25,
    parameters=1000,
    parameters_changed=50,
    samples={"forget": 100, "kept": 900, "hessian": 64},
    unseen=3,
    before=BEFORE,
    after=AFTER,
    finetuned=None,
    retrained=Retrained(replace(AFTER, kept=0.991), 0.5, 0.98, 0.01, 60.0, 0.25),
    validation=BEFORE,
    applications=[
        Application("stopped", 20, 1e-2, "", 2.0, 1.5),
        Application("converged", 9, 1e-4, "", 0.0, 0.0),
    ],
    trials=[
        Trial(1, 1.0, AFTER, 0.94, chosen=False),
        Trial(1, 2.0, AFTER, 0.955, chosen=True),
        Trial(2, 1.0, BEFORE, 0.5, chosen=False),
    ],
    layers=[SelectedRow("a", 1, 16)],
    seconds={},
    artifact="u.safetensors",
    files=["unlearn.md"],
    run_dir="r",
)


def shown(result):
    console = Console(file=io.StringIO(), width=120)
    show_unlearn(result, console)
    return console.file.getvalue()


def test_the_console_has_every_number():
    text = shown(RESULT)
    for part in (
        "net|x on [red]set: backdoor forgotten by gif",
        "100 of 1,000 training samples; random filters at ratio 0.05: 50 of 1,000 parameters (5.0%)",
        "3 samples of the file were never trained on.",
        "96.00 %",
        "11.50 %",
        "0.500",
        "99.10 %",
        "Application 1: stopped after 20 iterations, residual 1.0e-02; length 2, |change| 1.5.",
        "Application 2: converged after 9 iterations, residual 1.0e-04; no length better than staying.",
        "equal predictions 98.00%, KL 0.01 nats; time 0.25 of its training.",
        "Wrote u.safetensors",
    ):
        assert part in text
    assert "forgotten │" not in text  # a backdoor has no forgotten class


def test_what_was_not_measured_has_no_row_or_column():
    of_class = replace(AFTER, forgotten=0.0, relabelled=None, attack=None, attack_elsewhere=None)
    text = shown(replace(RESULT, after=of_class, before=of_class, retrained=None, selection=None, unseen=0))
    assert "forgotten" in text
    assert "all parameters: 50" in text
    for part in ("attack", "trained anew", "with trigger", "never trained on"):
        assert part not in text


def test_why_nothing_was_changed_is_told():
    why = replace(RESULT.applications[1], message="the series does not converge; use if")
    text = shown(replace(RESULT, applications=[replace(RESULT.applications[0], message="more iterations"), why]))
    assert "no length better than staying (the series does not converge; use if)." in text
    assert "more iterations" not in text  # it was good enough to be taken


def test_markdown_marks_the_choice():
    lines = unlearn_markdown(RESULT).splitlines()
    (row,) = [line for line in lines if line.endswith("* |")]
    assert row == "| 1 | 2 | 96.00 % | 95.00 % | 11.50 % | 2.00 % | 0.9550 * |"
    heads = next(line for line in lines if line.startswith("| application"))
    assert heads.count("|") == row.count("|")


def test_the_figure_has_a_point_per_trial_and_curve():
    scene = lengths_scene(RESULT)
    hints = [m.hint for m in scene.marks if getattr(m, "hint", "")]
    assert len(hints) == 3 * 4  # kept, with trigger, attack; before and three trials
    assert "application 1, length 2: attack 11.50 %" in hints
    assert png(scene) == png(scene)
    assert lengths_scene(replace(RESULT, trials=[])).marks
