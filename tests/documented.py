"""The fenced blocks of README and docs, with what an HTML comment before each says about running it.

No comment: it runs by default. Else one of

    <!-- slow -->                       it runs with `-m slow`
    <!-- with: KEY=VALUE ... -->        further words behind the block's infprune commands; `slow with:` is both
    <!-- file: PATH -->                 its text is written there, for the blocks below
    <!-- not run: REASON -->
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
COMMANDS = ("console", "bash", "python", "yaml")
SHOWN = ("text",)
VERDICTS = ("Faster: ", "No speed-up ")  # the clock decides which of them is printed

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>.*)\n(?P<body>(?:.*\n)*?)(?P=indent)```$", re.MULTILINE)
_COMMENT = re.compile(r"<!-- *(?P<text>(?:(?!-->)[\s\S])*?) *-->\s*\Z")
_FRACTION = r"(?<!\w)[-+]?\d[\d,]*(?:\.\d+(?:e[-+]?\d+)?|e[-+]?\d+)"
_NUMBER = rf"{_FRACTION}|(?<!\w)[-+]?\d[\d,]*"
_DIRECTIVE = re.compile(r"(?P<slow>slow)?(?:(?:\A| )with: (?P<words>.+))?|file: (?P<file>\S+)|not run: (?P<why>.+)")


@dataclass(frozen=True)
class Block:
    """`fault`: why it can be neither run nor left out; empty if it can."""

    page: str
    line: int
    language: str
    body: str
    slow: bool = False
    words: tuple[str, ...] = ()
    file: str | None = None
    why_not: str | None = None
    fault: str = ""

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def runs(self):
        return self.language in COMMANDS and self.why_not is None


def blocks(text, page="page.md"):
    """All fenced blocks of a page, in order."""
    found = []
    for fence in _FENCE.finditer(text):
        place = {"page": page, "line": text[: fence.start()].count("\n") + 1}
        what = {"language": fence["language"].strip(), "body": fence["body"]}
        comment = _COMMENT.search(text, 0, fence.start())
        found.append(_judged(Block(**place, **what, **_directive(comment["text"] if comment else ""))))
    return found


def _directive(text):
    if not text:
        return {}
    said = _DIRECTIVE.fullmatch(" ".join(text.split()))
    if not said:
        return {"fault": f"no such comment: {text}"}
    words = tuple((said["words"] or "").split())
    return {"slow": bool(said["slow"]), "words": words, "file": said["file"], "why_not": said["why"]}


def _judged(block):
    if block.fault:
        return block
    fault = ""
    if block.language not in COMMANDS + SHOWN:
        fault = f"language {block.language or 'not given'}; known: {', '.join(COMMANDS + SHOWN)}"
    elif block.runs and block.file is None:
        if block.language == "yaml":
            fault = "name the file it is, or say why it is not run"
        elif block.language == "console" and not block.body.startswith("$ "):
            fault = "a console block begins with `$ `"
    return Block(**{**vars(block), "fault": fault})


def steps(block):
    """The commands of a console or bash block, each with what is shown below it."""
    if block.language == "bash":
        return [(_joined(block.body.splitlines()), "")]
    parts = re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]
    return [_step(part.splitlines()) for part in parts]


def _step(lines):
    end = next(i for i, line in enumerate(lines) if not line.endswith("\\")) + 1
    return _joined(lines[:end]), "\n".join(lines[end:])


def _joined(lines):
    return " ".join(line.rstrip("\\").strip() for line in lines)


def missing(shown, printed, *, exactly=False):
    """The lines shown that are not printed in that order. Numbers, frames, spaces and `...` do not count, nor verdicts.

    `exactly`: whole numbers do.
    """
    number = re.compile(_FRACTION if exactly else _NUMBER)
    rest, absent = _plain(printed, number), []
    for line in shown.splitlines():
        words = _plain(line, number)
        if not words or words == "..." or words.startswith(VERDICTS):
            continue
        if words in rest:
            rest = rest.partition(words)[2]
        else:
            absent.append(line)
    return absent


def _plain(text, number):
    text = re.sub(r"[\u2500-\u257f]", " ", text)
    return " ".join(number.sub("#", text).split())
