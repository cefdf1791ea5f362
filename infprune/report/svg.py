"""Figures as SVG, for light and dark pages."""

from infprune.report.markup import Markup, joined, tag
from infprune.report.scene import PALETTE, WIDTH, Area, Label, Line, Scene


def inline(scene: Scene) -> Markup:
    """Part of a page that has the rules of `colours`."""
    return _svg(scene, None)


def standalone(scene: Scene) -> str:
    """A file of its own."""
    used = {"paper"} | {mark.role for mark in scene.marks}
    light, dark = (
        "".join(_rule(role, values[at]) for role, values in PALETTE.items() if role in used) for at in (0, 1)
    )
    rules = f"{light}@media (prefers-color-scheme:dark){{{dark}}}"
    return _svg(scene, rules) + "\n"


def colours() -> str:
    """CSS for a page: the palette as variables, dark on screens that want it, and the classes of marks."""
    light, dark = ("".join(f"--{role}:{values[at]};" for role, values in PALETTE.items()) for at in (0, 1))
    rules = "".join(_rule(role, f"var(--{role})") for role in PALETTE)
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{rules}\n"


def _rule(role: str, colour: str) -> str:
    return f".f-{role}{{fill:{colour}}}.s-{role}{{stroke:{colour}}}"


def _svg(scene: Scene, rules: str | None) -> Markup:
    title, description = f"{scene.name}-title", f"{scene.name}-description"
    height = f"{scene.height:g}"
    return tag(
        "svg",
        tag("title", scene.title, id=title),
        tag("desc", scene.description, id=description),
        None if rules is None else tag("style", Markup(rules)),
        None if rules is None else tag("rect", width="100%", height="100%", class_="f-paper"),
        *(_mark(mark) for mark in scene.marks),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        width=WIDTH,
        height=height,
        role="img",
        aria_labelledby=f"{title} {description}",
        font_family="system-ui, sans-serif",
    )


def _mark(mark: Line | Area | Label) -> Markup:
    if isinstance(mark, Label):
        turn = f"rotate(-90 {_number(mark.x)} {_number(mark.y)})" if mark.upwards else None
        return tag(
            "text",
            mark.text,
            x=_number(mark.x),
            y=_number(mark.y),
            class_=f"f-{mark.role}",
            text_anchor=None if mark.anchor == "start" else mark.anchor,
            font_size=f"{mark.size:g}",
            transform=turn,
        )
    points = " ".join(f"{_number(x)},{_number(y)}" for x, y in mark.points)
    if isinstance(mark, Area):
        hint = (tag("title", mark.hint),) if mark.hint else ()
        unseen = "0" if mark.role == "none" else None
        return tag("polygon", *hint, points=points, class_=f"f-{mark.role}", fill_opacity=unseen)
    return joined(
        tag(
            "polyline",
            points=points,
            class_=f"s-{mark.role}",
            fill="none",
            stroke_width=f"{mark.width:g}",
            stroke_dasharray="3 3" if mark.dashed else None,
        )
    )


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
