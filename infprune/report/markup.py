"""HTML and SVG from Python: text is escaped unless it is markup already."""

import html
import re

# Not allowed in XML, or not encodable: control characters and lone surrogates (of file names that are not UTF-8).
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_EMPTY = ("br", "circle", "col", "img", "meta", "path", "polygon", "polyline")


class Markup(str):
    """Text that is markup: it goes into a page as it stands."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """Text as markup."""
    return text if isinstance(text, Markup) else Markup(html.escape(printable(str(text))))


def printable(text: str) -> str:
    """Text in which U+FFFD stands for what no document may hold."""
    return _UNPRINTABLE.sub("\ufffd", text)


def joined(*parts: object) -> Markup:
    """Parts one after the other; None is nothing."""
    return Markup("".join(escape(part) for part in parts if part is not None))


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """Return an element. Underscores in attribute names stand for hyphens, a last one is dropped (`class_`).

    An attribute that is True has no value, one that is None is left out.
    """
    told = "".join(_attribute(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    if name in _EMPTY and not content:
        return Markup(f"<{name}{told}/>")
    return Markup(f"<{name}{told}>{joined(*content)}</{name}>")


def _attribute(name: str, value: object) -> str:
    if value is None:
        return ""
    return f' {name}=""' if value is True else f' {name}="{escape(value)}"'
