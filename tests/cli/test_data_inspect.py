"""`infprune data inspect` against a dense reference, its files, and what users get wrong."""

import csv
import html
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from infprune import config
from infprune.attribution.contract import SampleScores
from infprune.attribution.scores_file import write_sample_scores
from infprune.data.subset_file import fingerprint
from infprune.pipeline.session import open_session
from test_bad_input import one_line

MODEL = ["model.name=logistic_regression", "model.args={in_features: 64, num_classes: 10}", "model.checkpoint=random"]
DIGITS = [*MODEL, "data.calibration=40", "influence.damping=0.01", "run.dir=out"]
TABLE = [
    "data.name=breast_cancer",
    "model.name=logistic_regression",
    "model.args={in_features: 30}",
    "model.checkpoint=random",
    "data.calibration=40",
    "influence.damping=0.01",
    "run.dir=out",
]


@pytest.fixture
def session():
    return open_session(config.load(None, DIGITS), "inspect")


@pytest.fixture
def scores(tmp_path, session):
    """A file of memorisation scores of the digits; the largest are those of samples 5 and 2 of the split."""
    train = session.splits.train
    values = torch.linspace(0, 1, len(train), dtype=torch.float64)
    values[[5, 2]] = torch.tensor([3.0, 2.0], dtype=torch.float64)
    labels = torch.tensor([y for _, y in train])
    sha = fingerprint(train.base)
    made = SampleScores("memorisation", "probability", "memorised", train.indices, values, labels, sha)
    path = tmp_path / "scores.safetensors"
    write_sample_scores(path, made, samples=len(train.base), base_sha256=None, seed=0, config={})
    return path


def views(infprune, *words):
    outcome = infprune("data", "inspect", *words, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.json, {view["name"]: view["rows"] for view in outcome.json["views"]}


def softmax_influence(session, queries, damping=0.01):
    """g_query^T (H + damping)^-1 g_z / N at zero weights, dense: p = 1/10, H = (diag p - p p^T) (x) E x x^T."""

    def gradients(x, y):
        x = torch.cat([x.double().flatten(1), torch.ones(len(x), 1).double()], 1)
        residual = torch.full((len(y), 10), 0.1).double() - torch.eye(10).double()[y]
        return (residual[:, :, None] * x[:, None]).flatten(1), x

    ((x, _),) = session.calibration()
    inputs = gradients(x, torch.zeros(len(x), dtype=torch.int64))[1]
    p = torch.full((10,), 0.1).double()
    H = torch.kron(torch.diag(p) - p.outer(p), inputs.T @ inputs / len(inputs))
    H.diagonal().add_(damping)
    train = [session.splits.train[i] for i in range(len(session.splits.train))]
    xs, ys = torch.stack([x for x, _ in train]), torch.tensor([y for _, y in train])
    asked = [session.splits.test[i] for i in queries]
    query = gradients(torch.stack([x for x, _ in asked]), torch.tensor([y for _, y in asked]))[0].mean(0)
    return gradients(xs, ys)[0] @ torch.linalg.solve(H, query) / len(ys)


@pytest.mark.parametrize("words", [("--test", "7"), ("--class", "4")])
def test_influence_is_that_of_a_dense_reference(infprune, session, words):
    _, found = views(infprune, *DIGITS, *words, "--top", 9)
    test = session.splits.test
    queries = [7] if words[0] == "--test" else [i for i in range(len(test)) if test[i][1] == 4]
    expected = softmax_influence(session, queries)
    order = expected.argsort(descending=True)
    for name, places in (("helpful", order[:9]), ("harmful", order.flip(0)[:9])):
        assert [row["index"] for row in found[name]] == session.splits.train.indices[places].tolist()
        assert [row["score"] for row in found[name]] == pytest.approx(expected[places].tolist(), rel=1e-6)
    assert all(row["label"] == session.splits.train.base[row["index"]][1] for row in found["helpful"])


def test_what_it_writes(infprune, scores):
    result, found = views(infprune, *DIGITS, "--test", 7, "--scores", scores, "--top", 4)
    assert json.loads(Path("out/data-inspect.json").read_text()) == result
    with Path("out/data-inspect.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["view"], int(line["index"])) for line in lines] == [
        (name, row["index"]) for name in ("helpful", "harmful", "suspects", "memorised") for row in found[name]
    ]
    page = Path("out/data-inspect.html").read_text()
    parser = Pictures()
    parser.feed(page)
    assert len(parser.sources) == 4 * 4 + 1
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in parser.sources)
    assert "http://" not in page
    assert "https://" not in page
    command = html.unescape(re.search("<pre><code>(infprune data inspect [^<]*)</code></pre>", page)[1])
    again = infprune(*shlex.split(command)[1:], "--json").json
    assert {key: again[key] for key in ("query", "curvature", "views")} == {
        key: result[key] for key in ("query", "curvature", "views")
    }


def test_parquet_beside_the_csv(infprune):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow (extra parquet) is not installed")
    result, found = views(infprune, *DIGITS, "--test", 7, "--top", 4, "--table", "parquet")
    assert {Path(file).suffix for file in result["files"]} == {".json", ".csv", ".html", ".parquet"}
    rows = parquet.read_table("out/data-inspect.parquet").to_pylist()
    every = [(name, row["index"], row["score"]) for name, some in found.items() for row in some]
    assert [(row["view"], row["index"], row["score"]) for row in rows] == every
    with Path("out/data-inspect.csv").open() as file:
        assert [float(line["loss"]) for line in csv.DictReader(file)] == [row["loss"] for row in rows]


class Pictures(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources = []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.sources.append(dict(attrs)["src"])


def test_stored_scores_rank_the_memorised(infprune, session, scores):
    _, found = views(infprune, *DIGITS, "--scores", scores, "--top", 2)
    assert [row["index"] for row in found["memorised"]] == session.splits.train.indices[[5, 2]].tolist()
    assert [row["score"] for row in found["memorised"]] == [3.0, 2.0]
    assert "helpful" not in found


def test_a_table_is_shown_by_its_values(infprune):
    views(infprune, *TABLE, "--test", 1, "--top", 3)
    page = Path("out/data-inspect.html").read_text()
    assert "<img" not in page
    assert "worst concave points" in page


def test_people_get_ranked_tables(infprune):
    outcome = infprune("data", "inspect", *DIGITS, "--top", 3)
    assert outcome.code == 0, outcome.err
    assert "Suspected mislabels" in outcome.out
    assert "2.303" in outcome.out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--test", 9999], 2, "--test: expected a test sample from 0 to"),
        (["--class", 10], 2, "--class: expected a class from 0 to 9, got 10"),
        (["--test", 1, "--class", 1], 2, "got both"),
        (["--top", 0], 2, "--top: expected 1 to"),
        (["--top", 99999], 2, "--top: expected 1 to"),
        (["--scores", "none.safetensors"], 6, "no such file"),
        (["--table", "xlsx"], 2, "--table: expected csv or parquet, got xlsx"),
    ],
)
def test_bad_input(infprune, words, code, message):
    outcome = infprune("data", "inspect", *DIGITS, *words)
    assert outcome.code == code
    assert message in one_line(outcome)


def test_scores_of_other_data(infprune, scores):
    outcome = infprune("data", "inspect", *TABLE, "--scores", scores)
    assert outcome.code == 6
    assert "these scores are of another data set" in one_line(outcome)
