"""Pages of results: one file that needs nothing else, for light and dark screens, telephones and paper."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from infprune.pipeline.results import Provenance
from infprune.report import svg
from infprune.report.markup import Markup, joined, tag
from infprune.report.scene import Scene


@dataclass(frozen=True)
class Cell:
    """What a cell of a table shows, and the number it is sorted by (None: by its text).

    `share`: the length of a bar behind it, from 0 to 1.
    """

    shown: object
    key: float | None = None
    share: float | None = None


def page(title: str, summary: object, sections: Sequence[Markup], *, images: bool = False) -> str:
    """Return the whole document; `images`: it holds some, as `data:` addresses."""
    style, script = svg.colours() + _read("page.css"), _read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sources = f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'" + ("; img-src data:" if images else "")
    allowed = f"default-src 'none'; {sources}"  # nothing from elsewhere
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=allowed),
        tag("title", title),
        tag("style", Markup(style)),
    )
    header = tag("header", tag("h1", title), summary)
    body = tag("body", header, tag("main", *sections), tag("script", Markup(script)))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def section(title: str, *content: object) -> Markup:
    """Return a part of a page with its heading."""
    return tag("section", tag("h2", title), *content)


def paragraph(*content: object, class_: str | None = None) -> Markup:
    """Return a paragraph."""
    return tag("p", *content, class_=class_)


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, sortable: bool = False) -> Markup:
    """Return a table whose first column names its rows; a column of numbers is set to the right.

    A sortable one has a button in each header. What is wider than the page scrolls, by keyboard too.
    """
    numeric = [
        bool(rows) and all(row[i].key is not None or row[i].shown == "" for row in rows) for i in range(len(columns))
    ]

    def header(i: int) -> Markup:
        name: object = tag("button", columns[i], type="button") if sortable else columns[i]
        return tag(
            "th", name, scope="col", class_="number" if numeric[i] else None, aria_sort="none" if sortable else None
        )

    def cell(i: int, c: Cell) -> Markup:
        key = {} if c.key is None or not sortable else {"data_key": repr(c.key)}
        classes = " ".join(name for name, on in (("number", numeric[i]), ("bar", c.share is not None)) if on)
        style = None if c.share is None else f"--share:{min(max(c.share, 0), 1):.2%}"
        kind = {"scope": "row"} if i == 0 else {}
        return tag("th" if i == 0 else "td", c.shown, **kind, class_=classes or None, style=style, **key)

    head = tag("thead", tag("tr", *map(header, range(len(columns)))))
    body = tag("tbody", *(tag("tr", *(cell(i, c) for i, c in enumerate(row))) for row in rows))
    made = tag("table", tag("caption", tag("span", caption)), head, body, class_="sortable" if sortable else None)
    return tag("div", made, class_="wide", role="region", aria_label=caption, tabindex="0")


def facts(pairs: Sequence[tuple[str, object]], class_: str) -> Markup:
    """Return names with values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), class_=class_)


def figures(scenes: Sequence[Scene]) -> Markup:
    """Return drawings with captions, side by side where there is room."""
    return tag("div", *map(_figure, scenes), class_="figures")


def code(text: object) -> Markup:
    """Return a name, path or digest as it is written."""
    return tag("code", text)


def seconds(spent: dict[str, float]) -> Markup:
    """Return the section of the time that each stage took."""
    most, total = max(spent.values(), default=0.0) or 1.0, sum(spent.values())
    rows = [[Cell(name), Cell(f"{s:.2f}", s, s / most)] for name, s in spent.items()]
    rows.append([Cell("all"), Cell(f"{total:.2f}", total)])
    return section("Time", table("Seconds by stage", ["stage", "seconds"], rows))


def provenance(made: Provenance | None, command: str, more: Sequence[tuple[str, object]] = ()) -> Markup:
    """Return the section that says what the result was made from, and how to make it again."""
    pairs = [] if made is None else _origins(made)
    return section(
        "Where it comes from",
        facts([*more, *pairs], "origins"),
        tag("h3", "Make it again"),
        tag("pre", code(command)),
    )


def _origins(made: Provenance) -> list[tuple[str, object]]:
    data = {key: value for key, value in made.data.items() if value not in (None, {}, False)}
    digests = (
        ("dense weights, SHA-256", made.base_sha256),
        ("scores file, SHA-256", made.scores_sha256),
        ("file written, SHA-256", made.artifact_sha256),
    )
    threads = f", {made.threads} thread{'s' * (made.threads > 1)}" if made.device == "cpu" else ""
    return [
        ("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())),
        ("seed", made.seed),
        ("machine", f"{made.device}{threads}, {made.precision}"),
        ("data", ", ".join(f"{key}: {value}" for key, value in data.items())),
        ("samples", ", ".join(f"{count:,} {name}" for name, count in made.samples.items())),
        *((name, code(digest)) for name, digest in digests if digest is not None),
    ]


def _figure(scene: Scene) -> Markup:
    caption = tag("figcaption", tag("strong", scene.title), " ", scene.description)
    return tag("figure", svg.inline(scene), caption)


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def lines(items: Sequence[object]) -> Markup:
    """Return a list."""
    return tag("ul", joined(*(tag("li", item) for item in items)))
