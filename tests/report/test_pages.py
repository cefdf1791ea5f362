"""Pages of results: what they say, that nothing of the user's is markup, and that they need no other file."""

import hashlib
import io
import re
from base64 import b64encode
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import matplotlib.image as mpimg
import pytest
from results_for_pages import HOSTILE, HOSTILE_PRUNED, HOSTILE_REPORT, PRUNED, REPORT

from infprune.pipeline.prune_results import Goal
from infprune.pipeline.results import Accuracy
from infprune.report.drawn import drawn
from infprune.report.png import png
from infprune.report.prune_figures import prune_scenes
from infprune.report.prune_page import prune_html
from infprune.report.report_figures import report_scenes
from infprune.report.report_page import report_html
from infprune.report.scene import WIDTH, Line, Scene, box
from infprune.report.svg import standalone

EMPTY = {"meta", "polygon", "polyline", "rect"}
PAGES = {
    "prune": lambda: prune_html(PRUNED),
    "report": lambda: report_html(REPORT),
    "hostile prune": lambda: prune_html(HOSTILE_PRUNED),
    "hostile report": lambda: report_html(HOSTILE_REPORT),
}


class Reader(HTMLParser):
    """Elements, attributes and visible text; every element must be closed in turn."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in EMPTY, tag
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(params=PAGES)
def page(request):
    return PAGES[request.param]()


def text(page):
    return re.sub(r"\s+", " ", " ".join(read(page).text))


def test_the_page_of_a_pruned_network_has_everything():
    shown = text(prune_html(PRUNED))
    for words in (
        "net on digits, pruned",
        "49.9% of the prunable channels removed by influence (scope: calibrated)",
        "Quality gate missed: accuracy 0.9800 is below --min-accuracy 0.985",
        "parameters 2,000 500 25.0%",
        "channels removed, at most, found by the search 50.0% 49.9% ✓ met",
        "test accuracy, at least 0.9850 0.9800 ✗ missed",
        "dense 99.00 % +0.00 after the cut 50.00 % -49.00 compensated 98.00 % -1.00",
        "Largest relative error: 3.2e-07 (allowed: 1e-05).",
        "The proof froze these layers: their cut could not be shown to be right. second: shape",
        "in the proof as in the network: body.norm",
        "conv10 32 4 28 12.5% 25.0% 1.00e-05 5.77e-04 3.33e-02",
        "head not cut 10 10 0 100.0% 50.0%",
        "head not cut: it is an output of the network",
        "0.500 0.05 0.06 0.9800",
        "Pearson's r is 0.970.",
        "inf-cp: cut after 1 of 1 epochs. Surgery changed the outputs by 2.0e-06",
        "score 1.25 cut 0.25 all 1.50",
        "infprune 0.1.0, torch 2.9.0, python 3.11.7",
        "name: digits, calibration: 256",
        "1,294 train, 144 validation, 359 test, 256 calibration",
        "dense weights, SHA-256 " + "a1" * 32,
        "file written, SHA-256 " + "b2" * 32,
        "infprune prune -c runs/x/config.yaml",
    ):
        assert words in shown, words


def test_the_page_of_a_comparison_has_everything():
    shown = text(report_html(REPORT))
    for words in (
        "net on digits: criteria compared",
        "Compensation: ls. Calibration: 256 samples. Means of 3 calibration draws, with standard deviations.",
        "highest mean, 80 % removed 95.00 % influence",
        "Accuracy against the share of channels removed, after the cut Bars: standard deviation over 3 seeds.",
        "Accuracy against the MACs kept, compensated",
        "random 98.00 ± 0.20 70.00 ± 0.20",
        "random 80 79.0 20.0 10.00 ± 1.00 70.00 ± 0.20",
        "infprune report -c runs/y/config.yaml --rates 0.2,0.8 --criteria influence,random --seeds 3",
    ):
        assert words in shown, words
    assert "fine-tuned" not in shown


def test_one_seed_has_no_spread():
    shown = text(report_html(replace(REPORT, rows=[replace(row, seeds=1, cut=(0.5, 0.0)) for row in REPORT.rows])))
    assert "One seed, hence no spread." in shown
    assert "±" not in shown


def test_a_run_without_search_training_or_provenance_has_a_page():
    bare = replace(
        PRUNED, search=None, joint=None, provenance=None, goals=[], gates=[], missed=[], accuracy=Accuracy(0.99, 0.9)
    )
    bare = replace(bare, layers=[replace(row, distribution=[]) for row in bare.layers])
    shown = text(prune_html(bare))
    for words in ("Search for", "Learned", "Asked", "Scores of", "SHA-256", "Quality gate"):
        assert words not in shown, words
    assert "infprune prune -c runs/x/config.yaml" in shown


def test_fine_tuning_is_replayed():
    tuned = replace(REPORT, rows=[replace(row, finetuned=(0.9, 0.0)) for row in REPORT.rows])
    assert "--seeds 3 --finetune" in text(report_html(tuned))


def test_nothing_of_the_users_is_markup():
    for kind in ("prune", "report"):
        tame, hostile = read(PAGES[kind]()), read(PAGES[f"hostile {kind}"]())
        assert len(hostile.all("script")) == len(tame.all("script")) == 1
        assert not any(key.startswith("on") for _, attributes in hostile.elements for key in attributes)
        shown = "".join(hostile.text)
        assert "<script>alert('x')</script>\"&amp;\ufffd\ufffd</title>]]>层" in shown
        assert "\x00" not in shown
    PAGES["hostile prune"]().encode()  # lone surrogates would not


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        (Goal("macs", 0.4, 0.3987, True), "MACs kept, at most 40.0% 39.9% ✓ met"),
        (Goal("params", 50_000, 48_000, True), "parameters kept, at most 50,000 48,000 ✓ met"),
        (Goal("latency", 1.5, 1.61, False), "time of one sample kept, at most 1.5 ms 1.61 ms ✗ missed"),
    ],
)
def test_budgets_are_told_in_their_units(goal, words):
    assert words in text(prune_html(replace(PRUNED, goals=[goal])))


def test_a_run_folder_with_spaces_is_quoted():
    assert "infprune prune -c 'my runs/config.yaml'" in text(prune_html(replace(PRUNED, run_dir="my runs")))


def test_the_same_result_gives_the_same_page(page):
    assert page in [make() for make in PAGES.values()]


def test_only_times_differ_between_runs():
    slower = replace(PRUNED, seconds={"score": 9.0, "cut": 1.0})
    a, b = (re.sub(r"<h2>Time</h2>.*?</section>", "", prune_html(r)) for r in (PRUNED, slower))
    assert a == b


def test_nothing_is_loaded_from_elsewhere(page):
    reader = read(page)
    assert not {"link", "img", "iframe", "object", "base", "a", "use", "image"} & {tag for tag, _ in reader.elements}
    assert not [a for _, a in reader.elements if {"src", "href", "xlink:href", "action", "srcset"} & a.keys()]
    assert set(re.findall(r"https?://[^\s\"']*", page)) == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert "url(" not in page
    assert "@import" not in page


def test_the_policy_allows_the_one_script(page):
    policy = next(a["content"] for a in read(page).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL).group(1)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_headings_tables_and_figures_are_accessible(page):
    reader = read(page)
    assert [tag for tag, _ in reader.elements if tag in ("h1", "main", "title")].count("h1") == 1
    assert reader.all("html")[0]["lang"] == "en"
    assert all("scope" in attributes for attributes in reader.all("th"))
    assert len(reader.all("caption")) == len(reader.all("table")) > 3
    sortable = [a for a in reader.all("th") if "aria-sort" in a]
    assert len(sortable) == len(reader.all("button")) > 4
    ids = [a["id"] for _, a in reader.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for svg in reader.all("svg"):
        assert svg["role"] == "img"
        assert set(svg["aria-labelledby"].split()) <= set(ids)


def test_the_plan_sorts_by_numbers_that_are_not_rounded():
    keys = [float(a["data-key"]) for a in read(prune_html(PRUNED)).all("td") if "data-key" in a]
    assert 4 / 32 in keys
    assert PRUNED.layers[0].quantiles[2] in keys


@pytest.mark.parametrize("scene", prune_scenes(HOSTILE_PRUNED) + report_scenes(HOSTILE_REPORT), ids=lambda s: s.name)
def test_a_figure_is_a_file_of_its_own(scene):
    drawing = standalone(scene)
    root = ET.fromstring(drawing)
    assert root.attrib["viewBox"] == f"0 0 420 {scene.height:g}"
    assert root[0].text == scene.title
    roles = {mark.role for mark in scene.marks} - {"none"}
    style = root.find("{http://www.w3.org/2000/svg}style").text
    assert all(f".f-{role}{{" in style for role in roles)
    assert "prefers-color-scheme:dark" in style
    picture = png(scene)
    assert picture == png(scene)
    pixels = mpimg.imread(io.BytesIO(picture))
    assert abs(pixels.shape[0] - 2 * scene.height) <= 1
    assert len({tuple(p) for p in pixels[::3, ::3, :3].reshape(-1, 3).tolist()}) > 10


def test_figures_are_drawn_for_what_was_measured():
    names = ["channels", "scores", "rates", "prediction"]
    assert [scene.name for scene in prune_scenes(PRUNED)] == names
    assert [scene.name for scene in prune_scenes(replace(PRUNED, search=None))] == names[:2]
    kinds = [scene.name for scene in report_scenes(REPORT)]
    assert kinds == [f"accuracy-{x}-{stage}" for stage in ("cut", "compensated") for x in ("rate", "macs")]
    assert list(drawn(report_scenes(REPORT)))[:2] == ["figures/accuracy-rate-cut.svg", "figures/accuracy-rate-cut.png"]


def test_bars_are_as_long_as_layers_are_wide():
    scene = next(s for s in prune_scenes(PRUNED) if s.name == "channels")
    bars = [(m.role, m.points[1][0] - m.points[0][0]) for m in scene.marks if getattr(m, "hint", "")]
    unit = bars[0][1] / 4
    widths = [("kept", 4), ("gone", 28), ("kept", 12), ("gone", 4), ("kept", 20), ("gone", 4), ("frozen", 10)]
    assert bars == [(role, pytest.approx(width * unit)) for role, width in widths]


def test_strokes_have_the_colour_of_what_became_of_the_channels():
    midway = replace(PRUNED.joint, method="midway", masks=[])
    for pruned in (replace(PRUNED, joint=None), replace(PRUNED, joint=midway)):
        scene = next(s for s in prune_scenes(pruned) if s.name == "scores")
        strokes = [m.role for m in scene.marks if getattr(m, "width", 0) == 1.4]
        assert [strokes[i : i + 21].count("lost") for i in (0, 21, 42)] == [18, 5, 4]  # of 28/32, 4/16, 4/24 removed
    learned = next(s for s in prune_scenes(PRUNED) if s.name == "scores")
    assert "lost" not in {m.role for m in learned.marks}  # masks decided there, not the order of scores
    assert HOSTILE not in standalone(scene)


def test_a_png_draws_marks_in_their_order():
    """A point on a line of the grid lies on it, as in SVG."""
    line, area = Line([(0, 50), (WIDTH, 50)], "ink", 8), box(0, 0, WIDTH, 100, "c0")
    seen = [
        mpimg.imread(io.BytesIO(png(Scene("n", "t", "w", 100, marks))))[100, 400]
        for marks in ([line, area], [area, line])
    ]
    assert abs(seen[0] - seen[1]).max() > 0.1
