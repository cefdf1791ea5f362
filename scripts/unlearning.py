"""Unlearning on MNIST: methods against each other, fine-tuning and retraining, and what more weights cost.

    python scripts/unlearning.py --seeds 3 data.root=PATH

Two tasks: the backdoor of `mnist-backdoor` (5 % of the filters) and class 0 of `mnist-unlearn-class` (10 %); networks
are trained per seed. Rows: gif, fif, pif, if, second-order; the curve of gif over the ratio. Test split; step lengths
and applications by the validation split. Writes docs/results/unlearning.md, .json and a figure of the curve; a run
that was interrupted goes on.
"""

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infprune import config
from infprune.files import atomic_write
from infprune.pipeline import train, unlearn
from infprune.progress import Silent
from infprune.report.png import png
from infprune.report.trace_figures import scatter
from infprune.unlearning import WHOLE

RESULTS = Path(__file__).parents[1] / "docs" / "results"
TASKS = {"backdoor": "mnist-backdoor", "class 0": "mnist-unlearn-class"}
RATIOS = {"backdoor": 0.05, "class 0": 0.1}
METHODS = ("gif", "fif", "pif", "if", "second-order")
TARGETS = {
    "backdoor": "kept >= 98.3, with trigger >= 95.4, attack <= 11.5, with 5 % of the parameters",
    "class 0": "kept >= 99.1, forgotten <= 0.1, with 10 % of the parameters",
}
METRICS = {
    "backdoor": ("kept", "relabelled", "attack", "attack_elsewhere", "membership"),
    "class 0": ("kept", "forgotten", "membership"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS), help="METHOD or METHOD:APPLICATIONS")
    parser.add_argument("--curve", default="gif", help="the same, for the curve over the ratio")
    parser.add_argument("--ratios", default="0.02,0.2,0.5,1", help="of the curve, besides the task's own")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--report", action="store_true", help="write what was measured so far, and measure nothing")
    parser.add_argument("--retrain", action="store_true", help="also train anew, once per task and seed")
    given = parser.parse_intermixed_args()
    found: dict[str, Any] = {}
    for task in TASKS:
        found |= json.loads(stored(task).read_text()) if stored(task).exists() else {}
    for seed in range(0 if given.report else given.seeds):
        for task in given.tasks.split(","):
            curve = [(given.curve, float(r)) for r in given.ratios.split(",") if r]
            for method, ratio in [*((m, RATIOS[task]) for m in given.methods.split(",")), *curve]:
                key = f"{task}/{method}/{ratio:g}/{seed}"
                anew = given.retrain and (method, ratio) == ("gif", RATIOS[task])
                if key in found and not (anew and found[key]["retrained"] is None):
                    continue
                run = measured(task, method, ratio, seed, given.words, resume=key in found, retrain=anew)
                found[key] = timed(run, found.get(key))
                atomic_write(stored(task), json.dumps({k: v for k, v in found.items() if k.startswith(f"{task}/")}))
                print(key, found[key]["after"], flush=True)
    write({key: timed(run) for key, run in found.items()}, given)


def stored(task: str) -> Path:
    """What is measured of a task: tasks may be run at the same time."""
    return Path(f"runs/unlearning/{TASKS[task]}.json")


def measured(
    task: str, method: str, ratio: float, seed: int, words: list[str], *, resume: bool, retrain: bool
) -> dict[str, Any]:
    name = TASKS[task]
    folder = Path(f"runs/unlearning/{name}-{seed}")
    weights = folder / "train" / "model.safetensors"
    if not weights.exists():
        settings = [*words, f"run.seed={seed}", f"run.dir={weights.parent}", "model.checkpoint=random"]
        train.run(config.load(name, settings), Silent(), resume=True)
    name_of, _, applications = method.partition(":")
    own = [f"unlearn.method={name_of}", f"unlearn.ratio={ratio}"]
    own += [f"run.dir={folder}/{method.replace(':', '-')}-{ratio:g}"]
    own += [f"unlearn.applications={applications}"] if applications else []
    own += [f"unlearn.retrain={str(retrain).lower()}", f"unlearn.finetune={str(method == 'gif').lower()}"]
    settings = [*words, f"run.seed={seed}", f"model.checkpoint={weights}", *own]
    return asdict(unlearn.run(None, config.load(name, settings), Silent(), resume=resume))


def write(found: dict[str, Any], given: argparse.Namespace) -> None:
    lines = ["# Unlearning on MNIST", ""]
    lines += [
        "Four strided convolutions, 62,794 parameters; settings: the two configurations, found with gif on seed 0.",
        "Step lengths and applications were chosen on the validation split, for each method also longer and shorter",
        "ones than configured. Test split, in %: mean (standard deviation) over n seeds, each with its own network.",
        "`fine-tuned`: on 512 samples that stay and on the forget set with the labels wanted instead, all weights.",
        "Seconds are wall time on shared cores and no benchmark.",
    ]
    for task in given.tasks.split(","):
        metrics = METRICS[task]
        lines += ["", f"## {task}", "", f"`{command(found, task)}`", "", f"Asked for: {TARGETS[task]}.", ""]
        lines += [f"| | n | parameters changed | {' | '.join(metrics)} | applications | seconds |"]
        lines += ["|---|---:|---:|" + "---:|" * (len(metrics) + 2)]
        for name, runs, key in rows(found, task):
            quality = [run[key]["quality"] if key == "retrained" else run[key] for run in runs]
            cells = [spread([q[m] for q in quality], 1 if m == "membership" else 100) for m in metrics]
            if key == "after":
                made = [sum(a["length"] > 0 for a in r["applications"]) for r in runs]
                share = [bool(n) * r["parameters_changed"] / r["parameters"] for n, r in zip(made, runs, strict=True)]
                took, changed = statistics.mean(made), statistics.mean(share)
                seconds = f"{statistics.median(r['seconds']['unlearn'] for r in runs):.0f}"
                lines.append(f"| {name} | {len(runs)} | {changed:.1%} | {' | '.join(cells)} | {took:.1f} | {seconds} |")
            else:
                lines.append(f"| {name} | {len(runs)} | | {' | '.join(cells)} | | {clock(runs, key)} |")
        lines += ["", *against(found, task)]
        if points := curve(found, task):
            name = f"unlearning-{TASKS[task]}.png"
            told = ("Accuracy kept over the weights changed", f"{task}; a point per seed and ratio, test split.")
            scene = scatter("curve", *told, points, ("% of the parameters", "% kept"))
            atomic_write(RESULTS / name, png(scene))
            lines += ["", f"![accuracy kept over the share of the parameters]({name})"]
    print("\n".join(lines))
    atomic_write(RESULTS / "unlearning.md", "\n".join(lines).rstrip() + "\n")
    atomic_write(RESULTS / "unlearning.json", json.dumps(found, indent=1))


def timed(run: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """A run, with the times that earlier processes took where it went on from theirs."""
    seconds = run["seconds"] | (before or {"seconds": {}})["seconds"]
    retrained = run["retrained"]
    if retrained:
        took = seconds["select"] + seconds["unlearn"]
        retrained |= {"seconds": seconds["retrain"], "time_ratio": took / seconds["retrain"]}
    return run | {"seconds": seconds, "retrained": retrained}


def command(found: dict[str, Any], task: str) -> str:
    """What measures these rows."""
    keys = [key.split("/") for key in found if key.startswith(f"{task}/")]
    own = f"{RATIOS[task]:g}"
    curve = {method: None for _, method, ratio, _ in keys if ratio != own}
    words = ["--seeds", str(len({seed for *_, seed in keys})), "--tasks", f'"{task}"']
    words += ["--methods", ",".join({method: None for _, method, ratio, _ in keys if ratio == own})]
    words += ["--curve", *curve] if curve else []
    words += ["--ratios", ",".join({r: None for _, _, r, _ in keys if r != own}) or '""']
    words += ["--retrain"] if any(found["/".join(key)]["retrained"] for key in keys) else []
    return " ".join(["python scripts/unlearning.py", *words, "data.root=PATH"])


def rows(found: dict[str, Any], task: str) -> list[tuple[str, list[dict[str, Any]], str]]:
    """Name, runs and which of their qualities, of each row."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, run in found.items():
        of, method, ratio, _ = key.split("/")
        if of == task:
            groups.setdefault((method, ratio), []).append(run)
    own = groups.get(("gif", f"{RATIOS[task]:g}"), [])
    made = [("before", own, "before")] if own else []
    made += [(label(method, ratio), runs, "after") for (method, ratio), runs in groups.items()]
    for key, name in (("finetuned", "fine-tuned"), ("retrained", "trained anew")):
        runs = [run for run in own if run[key] is not None]
        made += [(name, runs, key)] if runs else []
    return made


def curve(found: dict[str, Any], task: str) -> list[tuple[float, float, str]]:
    """Share of the parameters and kept accuracy, in %, of the method that was run at several ratios."""
    mine = [(method, ratio, seed) for of, method, ratio, seed in (k.split("/") for k in found) if of == task]
    ratios = {method: len({r for m, r, _ in mine if m == method}) for method, *_ in mine}
    if max(ratios.values(), default=0) < 2:
        return []
    points = []
    for method, ratio, seed in mine:
        if ratios[method] == max(ratios.values()):
            run = found[f"{task}/{method}/{ratio}/{seed}"]
            share = 100 * run["parameters_changed"] / run["parameters"]
            points.append((share, 100 * run["after"]["kept"], f"ratio {ratio}, seed {seed}"))
    return points


def label(method: str, ratio: str) -> str:
    name, _, most = method.partition(":")
    where = name if name in WHOLE else f"{name}, ratio {ratio}"
    return f"{where}, at most {most} application{'s' * (most != '1')}" if most else where


def against(found: dict[str, Any], task: str) -> list[str]:
    runs = [run for name, of, _ in rows(found, task) if name == "trained anew" for run in of]
    told = [run["retrained"] for run in runs]
    if not told:
        return []
    mean = {k: statistics.mean(t[k] for t in told) for k in ("distance", "agreement", "kl", "time_ratio")}
    near = f"equal predictions {mean['agreement']:.2%}, KL {mean['kl']:.3g} nats"
    far = f"distance {mean['distance']:.2f} of the one before, time {mean['time_ratio']:.2f} of its training"
    return [f"gif against the network trained anew: {near}, {far}."]


def clock(runs: list[dict[str, Any]], key: str) -> str:
    stage = {"finetuned": "fine-tune", "retrained": "retrain"}.get(key)
    return f"{statistics.median(r['seconds'][stage] for r in runs):.0f}" if stage else ""


def spread(values: list[float], scale: float) -> str:
    digits = 2 if scale > 1 else 3
    mean = f"{scale * statistics.mean(values):.{digits}f}"
    return f"{mean} ({scale * statistics.stdev(values):.{digits}f})" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
