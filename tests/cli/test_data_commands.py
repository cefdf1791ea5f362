"""`infprune data`: score, prune, train on what is left, curve; and what is refused."""

import ast
import csv
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from infprune.attribution import METHODS
from infprune.attribution.scores_file import read_sample_scores
from infprune.data import splits
from infprune.data.subset_file import read_subset
from infprune.report import table_files
from test_bad_input import one_line

FACTORY = """
import torch
from torch import nn
from infprune.data.dataset import ArrayDataset, Source

def part(n, seed, unseen):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % (3 if unseen else 2)
    return ArrayDataset(torch.randn(n, 4, generator=g) + 2 * y[:, None], y)

def data(classes=2, unseen=False):
    return Source(part(60, 0, False), part(24, 1, unseen), classes, (4,))

def net(classes=2):
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, classes))
"""
TINY = [
    "model.factory=tiny:net",
    "model.checkpoint=random",
    "data.factory=tiny:data",
    "train.epochs=2",
    "samples.seeds=2",
    "samples.epochs=1",
    "samples.subsets=3",
    "data.batch_size=16",
]


@pytest.fixture
def tiny(infprune, tmp_path, monkeypatch):
    """The command line in a folder with a network and data of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "tiny", raising=False)
    (tmp_path / "tiny.py").write_text(FACTORY)
    return infprune


def scored(infprune, method="random", *words):
    made = infprune("data", "score", "--method", method, "--json", *TINY, f"run.dir={method}", *words)
    assert made.code == 0, made.err
    return made.json


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_scores_every_training_sample(tiny, method):
    told = scored(tiny, method)
    found, manifest = read_sample_scores(Path(told["scores"]))
    data = splits.load(None, "tiny:data", None, download=False, args={}, validation=0.1, seed=0)
    assert found.indices.tolist() == data.train.indices.tolist()
    assert found.labels.tolist() == data.train.base.y[data.train.indices].tolist()
    assert (told["samples"], manifest.samples, manifest.method) == (54, 60, method)
    assert sum(told["histogram"]["counts"]) == 54
    assert told["highest"][0]["score"] == float(found.scores.max())
    assert told["highest"][0]["index"] == int(found.indices[found.scores.argmax()])
    assert [row["samples"] for row in told["classes"]] == [27, 27]
    assert all(Path(file).stat().st_size for file in told["files"])
    assert json.loads(Path(method, "data-score.json").read_text()) == told


def test_the_same_seed_gives_the_same_bytes(tiny):
    first = Path(scored(tiny, "el2n")["scores"]).read_bytes()
    assert Path(scored(tiny, "el2n")["scores"]).read_bytes() == first
    assert Path(scored(tiny, "el2n", "--seed", "1")["scores"]).read_bytes() != first


def test_influence_per_class(tiny):
    told = scored(tiny, "influence", "samples.per_class=true", "samples.queries=test")
    assert told["groups"] == ["0", "1"]
    assert read_sample_scores(Path(told["scores"]))[0].scores.shape == (54, 2)
    assert told["facts"]["queries"] == 24
    assert told["curvature"]["curvature"] == "ggn"


def table(path):
    """The columns of a table file, by name."""
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow (extra parquet) is not installed")
        return parquet.read_table(path).to_pydict()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [ast.literal_eval(row[name]) for row in rows] for name in rows[0]}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_holds_every_score(tiny, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow (extra parquet) is not installed")
    told = scored(tiny, "influence", "samples.per_class=true", "--table", kind)
    scores, _ = read_sample_scores(Path(told["scores"]))
    assert f"influence/data-score.{kind}" in told["files"]
    found = table(Path(f"influence/data-score.{kind}"))
    assert list(found) == ["index", "label", "score", "score of 0", "score of 1"]
    assert found["index"] == scores.indices.tolist()
    assert found["label"] == scores.labels.tolist()
    assert found["score"] == scores.total.tolist()  # bit by bit
    assert found["score of 1"] == scores.scores[:, 1].tolist()
    assert "spread" in table(Path(scored_with(tiny, kind)))


def scored_with(tiny, kind):
    """A table of a method that knows more of each sample."""
    return scored(tiny, "el2n", "--table", kind)["files"][-1]


def test_parquet_without_its_package(tiny, monkeypatch):
    monkeypatch.setattr(table_files, "find_spec", lambda _: None)
    for command in (["score", "--method", "random"], ["inspect"]):
        outcome = tiny("data", *command, *TINY, "run.dir=none", "--table", "parquet")
        assert outcome.code == 2
        assert one_line(outcome) == 'error: --table: parquet needs pyarrow; pip install "infprune[parquet]"'
    assert not Path("none").exists()


def test_resuming_skips_what_is_done_and_ends_the_same(tiny):
    told = scored(tiny, "memorisation")
    whole = Path(told["scores"]).read_bytes()
    kept = Path("memorisation/trainings.json")
    content = json.loads(kept.read_text())
    del content["measurements"]["subset 2"]
    kept.write_text(json.dumps(content))
    assert Path(scored(tiny, "memorisation", "--resume")["scores"]).read_bytes() == whole
    changed = tiny("data", "score", "--method", "memorisation", *TINY, "run.dir=memorisation", "--resume", "train.lr=1")
    assert changed.code == 2
    assert "other settings" in changed.err
    content["measurements"]["subset 1"] = "AAAA"
    kept.write_text(json.dumps(content))
    damaged = tiny("data", "score", "--method", "memorisation", *TINY, "run.dir=memorisation", "--resume")
    assert damaged.code == 6
    assert "damaged" in damaged.err


@pytest.mark.slow
def test_processes_of_their_own_give_the_same(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    one = Path(scored(tiny, "memorisation", "run.threads=1")["scores"])
    whole, trainings = read_sample_scores(one)[0].scores, json.loads(Path("memorisation/trainings.json").read_text())
    Path("memorisation/trainings.json").unlink()
    two = scored(tiny, "memorisation", "run.threads=1", "samples.workers=2")
    assert torch.equal(read_sample_scores(Path(two["scores"]))[0].scores, whole)
    assert json.loads(Path("memorisation/trainings.json").read_text()) == trainings
    words = ["samples.fractions=[0.5]", "samples.strategies=[easy]", "run.threads=1", "run.dir=curve", *TINY]
    curves = [
        tiny("data", "curve", two["scores"], *words, f"samples.workers={n}", "--json").json["rows"] for n in (1, 2)
    ]
    assert curves[0] == curves[1]


def test_prune_writes_what_train_takes(tiny):
    told = scored(tiny)
    made = tiny("data", "prune", told["scores"], "--keep", "0.5", "--strategy", "easy", "-o", "half.json", "--json")
    assert made.code == 0, made.err
    assert (made.json["kept"], made.json["subset"]) == (27, "half.json")
    assert [row["kept"] for row in made.json["classes"]] == [14, 13]
    subset = read_subset(Path("half.json"))
    assert subset.made["strategy"] == "easy"
    scores = read_sample_scores(Path(told["scores"]))[0]
    stays = torch.isin(scores.indices, subset.indices)
    for c in (0, 1):
        mine = scores.labels == c
        assert scores.scores[mine & stays].max() < scores.scores[mine & ~stays].min()
    trained = tiny("train", *TINY, "data.subset=half.json", "--json", "-o", "a.safetensors")
    plain = tiny("train", *TINY, "--json", "-o", "b.safetensors")
    assert trained.code == plain.code == 0, trained.err
    assert Path("a.safetensors").read_bytes() != Path("b.safetensors").read_bytes()
    tuned = tiny("finetune", "a.safetensors", *TINY[:3:2], "finetune.epochs=1", "--json")
    assert tuned.code == 0, tuned.err  # the file carries data.subset


def test_training_on_another_subset_is_not_resumed(tiny):
    told = scored(tiny)
    for keep in ("0.5", "0.6"):
        assert tiny("data", "prune", told["scores"], "--keep", keep, "-o", "s.json").code == 0
        last = tiny("train", *TINY, "data.subset=s.json", "run.dir=t", "--resume")
    assert last.code == 2
    assert "other weights or data" in last.err


def test_the_table_names_the_classes_and_the_ends(tiny):
    out = tiny("data", "score", "--method", "el2n", *TINY).out
    assert "el2n of 54 training samples" in out
    assert "Large scores: hard:" in out
    assert "Largest: " in out
    made = tiny(
        "data", "prune", "runs/tiny-net-data-el2n/sample-scores.safetensors", "--keep", "0.25", "--balance", "none"
    )
    assert "14 of 54 training samples stay" in made.out, made.err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["samples.layer=fc"], 2, "no layer 'fc'; the closest are"),
        (["samples.layer=11"], 2, "no layer '11'; the closest are 1"),
        (["samples.clusters=28"], 2, "at most 27, a class has only 27 samples; got 28"),
        (["samples.method=magic"], 2, "samples.method: expected one of influence, self-influence"),
        (["samples.subset=3"], 2, "did you mean samples.subsets?"),
        (
            [
                "data.args={classes: 3, unseen: true}",
                "model.args={classes: 3}",
                "samples.method=influence",
                "samples.queries=test",
            ],
            6,
            "the test part has label 2, which no training sample has",
        ),
    ],
)
def test_bad_requests_are_one_line(tiny, words, code, told):
    failed = tiny("data", "score", *TINY, "samples.method=prototypes", *words)
    assert (failed.code, failed.err.count("\n")) == (code, 1), failed.err
    assert told in failed.err


@pytest.mark.parametrize("words", [["--class", "2"], ["--test", "2"]])
def test_a_label_that_was_never_trained_on_is_not_explained(tiny, words):
    unseen = ["data.args={classes: 3, unseen: true}", "model.args={classes: 3}", "run.dir=out"]
    failed = tiny("data", "inspect", *TINY, *unseen, *words)
    assert failed.code == 6
    assert "the test part has label 2, which no training sample has" in one_line(failed)


def test_a_layer_may_be_named_by_a_number(tiny):
    assert scored(tiny, "prototypes", "samples.layer=1")["facts"]["dimensions"] == 6


def test_a_subset_of_another_data_set_is_refused(tiny):
    told = scored(tiny)
    assert tiny("data", "prune", told["scores"], "-o", "half.json").code == 0
    failed = tiny("train", "-c", "digits", "data.subset=half.json")
    assert failed.code == 6
    assert failed.err.startswith(
        "error: half.json: this subset is of a data set of 60 training samples, got one of 1438"
    )
    failed = tiny("data", "curve", told["scores"], "-c", "digits")
    assert failed.code == 6
    assert "60 training samples" in failed.err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["none.safetensors"], 6, "no such file"),
        (["SCORES", "--keep", "0.01"], 2, "--keep: 0.01 of 54 samples is 1, too few for 2 classes"),
        (["SCORES", "--keep", "0"], 2, "samples.keep: expected a number in (0, 1]"),
        (["SCORES", "--strategy", "best"], 2, "samples.strategy: expected one of hard, easy, middle"),
        (["tiny.py"], 6, "not a readable safetensors file"),
    ],
)
def test_bad_prunes_are_one_line(tiny, words, code, told):
    file = scored(tiny)["scores"]
    failed = tiny("data", "prune", *(file if word == "SCORES" else word for word in words))
    assert (failed.code, failed.err.count("\n")) == (code, 1), failed.err
    assert told in failed.err


def test_curve_holds_strategies_against_random(tiny):
    told = scored(tiny, "el2n")
    words = ["samples.fractions=[0.2, 0.5]", "samples.strategies=[easy]", "run.dir=curve", *TINY]
    made = tiny("data", "curve", told["scores"], *words, "--json")
    assert made.code == 0, made.err
    rows = {(row["strategy"], row["keep"]): row for row in made.json["rows"]}
    assert set(rows) == {(s, k) for s in ("easy", "random") for k in (0.2, 0.5)}
    assert rows["easy", 0.2]["kept"] == 11
    assert rows["random", 0.2]["difference"] is None
    store = json.loads(Path("curve/curve.json").read_text())
    found = store["measurements"]
    assert len(found) == 2 * (1 + 2 * 2)
    expected = sum(found[f"easy/0.2/{s}"] - found[f"random/0.2/{s}"] for s in (0, 1)) / 2
    assert rows["easy", 0.2]["difference"][0] == pytest.approx(expected)
    found["easy/0.2/0"] = 0.125  # what is stored is not measured again
    Path("curve/curve.json").write_text(json.dumps(store))
    again = tiny("data", "curve", told["scores"], *words, "--json", "--resume").json
    row = next(row for row in again["rows"] if (row["strategy"], row["keep"]) == ("easy", 0.2))
    assert row["accuracy"][0] == pytest.approx((0.125 + found["easy/0.2/1"]) / 2)
    assert "| easy | 20% | 11 |" in Path("curve/data-curve.md").read_text()
    assert Path("curve/data-curve.png").read_bytes()[:4] == b"\x89PNG"


def test_image_folders(infprune, tmp_path):
    for part, count in (("train", 8), ("test", 3)):
        for c, colour in enumerate(("red", "blue")):
            folder = tmp_path / "images" / part / str(c)
            folder.mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (8, 8), colour)
                image.putpixel((i % 8, 0), (0, 255, 0))
                image.save(folder / f"{i}.png")
    words = ["model.name=logistic_regression", "model.args={in_features: 192}", "model.checkpoint=random"]
    words += ["data.name=image_folder", f"data.root={tmp_path / 'images'}", "train.epochs=1", "samples.epochs=1"]
    for cache in ("true", "false"):
        made = infprune("data", "score", "--method", "el2n", "--json", *words, f"data.args={{cache: {cache}}}")
        assert made.code == 0, made.err
        assert made.json["samples"] == 14
        assert infprune("data", "prune", made.json["scores"], "-o", "s.json").code == 0
        trained = infprune("train", *words, f"data.args={{cache: {cache}}}", "data.subset=s.json")
        assert trained.code == 0, trained.err


@pytest.mark.parametrize("changed", ["a", "b"])
def test_data_that_changed_under_their_name_are_not_resumed_on(infprune, tmp_path, changed):
    lines = [f"{i % 2 + 5} 1:{i / 20} 2:{(-1) ** i * 0.5 + i / 40}" for i in range(40)]
    words = ["model.name=logistic_regression", "model.args={in_features: 2}", "model.checkpoint=random"]
    words += ["data.name=libsvm", f"data.root={tmp_path}", "data.args={train: a, test: b}", "train.epochs=1", "-q"]
    groups = ["--groups", 1, "retrain.sizes=[0]", "influence.ridge=0.1"]
    commands = [["train", *words], ["validate", *groups, *words]]
    for name in "ab":
        (tmp_path / name).write_text("\n".join(lines))
    for command in commands:
        assert infprune(*command).code == 0
        assert infprune(*command, "--resume").code == 0
    (tmp_path / changed).write_text("\n".join(["5 1:0.25 2:-1", *lines[1:]]))
    told = [infprune(*command, "--resume") for command in commands]
    assert [outcome.code for outcome in told] == ([2, 2] if changed == "a" else [0, 2])  # nothing is trained on b
    assert all(outcome.err.count("\n") == 1 for outcome in told if outcome.code)
    if changed == "a":
        assert "it started from other weights or data" in told[0].err
    assert "it was measured with other settings, weights, data or versions" in told[1].err


def test_libsvm_files(infprune, tmp_path):
    lines = [f"{i % 2 + 5} 1:{i / 20} 2:{(-1) ** i * 0.5 + i / 40}" for i in range(40)]
    (tmp_path / "a").write_text("\n".join(lines))
    (tmp_path / "b").write_text("\n".join(lines[:10]))
    words = ["model.name=logistic_regression", "model.args={in_features: 2}", "model.checkpoint=random"]
    words += ["data.name=libsvm", f"data.root={tmp_path}", "data.args={train: a, test: b}"]
    made = infprune(
        "data", "score", "--method", "influence", "influence.fit=true", "influence.ridge=0.1", "--json", *words
    )
    assert made.code == 0, made.err
    assert made.json["facts"]["outcome"] == "converged"
    assert made.json["curvature"]["gradient_norm"] < 1e-8
