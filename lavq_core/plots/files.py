"""Figures as files: small SVG in real millimetres, and PNG with a whole number of pixels per millimetre.

matplotlib writes an SVG in points, with absolute coordinates of six decimals, an id on every element and a global
style sheet. Here the same drawing is written with the page's size in millimetres, relative coordinates of 0.01 pt
(0.0035 mm), classes instead of ids and no style sheet, so that dozens fit in one HTML page without touching each other.
"""

from __future__ import annotations

import io
import os
import re
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lavq_core.errors import ConfigError
from lavq_core.runs.layout import write_atomic

MM_PER_INCH = 25.4
POINTS_PER_MM = 72 / MM_PER_INCH
PNG_DPI = 5 * MM_PER_INCH  # 5 pixels a millimetre: grid lines fall on whole pixels
PICTURES = (".svg", ".png")
FONT_FAMILY = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"

_SVG_NAMESPACE = "http://www.w3.org/2000/svg"
_AUTOMATIC_ID = re.compile(r"(figure|axes|patch|line2d|text|xtick|ytick|legend|\w*Collection|matplotlib\.axis)_\d+")
_PATH_TOKEN = re.compile(r"[A-Za-z]|-?\d+(?:\.\d+)?(?:e-?\d+)?")
_NO_ROTATION = re.compile(r"rotate\(-?0 [^)]*\)")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure; the file is whole or not there.

    Args:
        figure: its label, if it has one, becomes the SVG's title for screen readers.
        path: ``.svg`` or ``.png`` chooses the format.

    Raises:
        ConfigError: another suffix.
    """
    path = Path(path)
    if path.suffix == ".svg":
        save_svg(svg_markup(figure), path)
    elif path.suffix == ".png":
        _write_png(figure, path)
    else:
        raise ConfigError(f"cannot draw {path.name}: name the picture .svg or .png")
    return path


def save_svg(markup: str, path: Path) -> None:
    """Write what ``svg_markup`` returned as a file of its own, which needs the XML namespace that HTML does not."""
    body = markup.replace("<svg ", f'<svg xmlns="{_SVG_NAMESPACE}" ', 1)
    write_atomic(path, f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n')


def svg_markup(figure: Figure) -> str:
    """Return the figure as one ``<svg>`` element for the inside of an HTML page; artists' gids become CSS classes."""
    text = io.StringIO()
    label = str(figure.get_label())
    # The salt makes ids (of markers) reproducible, and different in figures that share a page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label or "figure", "path.simplify": True}):
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    root = ElementTree.fromstring(text.getvalue())
    _strip_namespaces(root)
    _drop_decoration(root)
    used = {element.get("href", "")[1:] for element in root.iter("use")} | set(
        re.findall(r"url\(#([^)]+)\)", text.getvalue())
    )
    _tidy(root, used)
    _flatten(root)
    _set_root(root, figure)
    return ElementTree.tostring(root, encoding="unicode")


def _write_png(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        FigureCanvasAgg(figure)
        figure.savefig(temporary, format="png", dpi=PNG_DPI)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _strip_namespaces(root: ElementTree.Element) -> None:
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key in [key for key in element.attrib if key.startswith("{")]:
            element.set(key.rpartition("}")[2], element.attrib.pop(key))


def _drop_decoration(root: ElementTree.Element) -> None:
    """Take out metadata and matplotlib's style sheet, which would apply to a whole HTML page."""
    for parent in list(root.iter()):
        for child in list(parent):
            style_sheet = child.tag == "defs" and child.find("style") is not None
            if child.tag == "metadata" or style_sheet:
                parent.remove(child)


def _tidy(root: ElementTree.Element, used_ids: set[str]) -> None:
    """Turn gids into classes, shorten paths, styles and numbers."""
    for element in root.iter():
        element.text = (element.text or "").strip() or None
        element.tail = None
        name = element.get("id")
        if name is not None and name not in used_ids:
            del element.attrib["id"]
            if not _AUTOMATIC_ID.fullmatch(name):
                element.set("class", name)
        if "d" in element.attrib:
            element.set("d", _short_path(element.attrib["d"]))
        if element.tag == "text":
            element.set("style", re.sub(r"font-family: [^;]*?(;|$)", "", element.get("style", "")).strip("; "))
            if _NO_ROTATION.fullmatch(element.get("transform", "")):
                del element.attrib["transform"]
        if "style" in element.attrib:
            element.set("style", element.attrib["style"].replace(": ", ":").replace("; ", ";"))
        for key in ("x", "y", "width", "height", "transform", "style"):
            if key in element.attrib:
                element.set(key, _NUMBER.sub(lambda match: _short(float(match[0])), element.attrib[key]))


def _flatten(element: ElementTree.Element) -> None:
    """Replace groups that carry nothing by their children, and hand a lone child its group's class."""
    children: list[ElementTree.Element] = []
    for child in list(element):
        _flatten(child)
        if child.tag == "g" and not child.attrib:
            children.extend(child)
        elif child.tag == "g" and set(child.attrib) == {"class"} and len(child) == 1 and "class" not in child[0].attrib:
            child[0].set("class", child.attrib["class"])
            children.append(child[0])
        else:
            children.append(child)
    element[:] = children


def _set_root(root: ElementTree.Element, figure: Figure) -> None:
    """Give the root its size in millimetres, its title and the defaults that the style sheet gave."""
    width, height = (side * MM_PER_INCH for side in figure.get_size_inches())
    box = f"0 0 {width * POINTS_PER_MM:.4f} {height * POINTS_PER_MM:.4f}"
    label = str(figure.get_label())
    root.attrib.clear()
    attributes = {
        "width": f"{width:g}mm",
        "height": f"{height:g}mm",
        "viewBox": box,
        "font-family": FONT_FAMILY,
        "stroke-linejoin": "round",
        "role": "img",
    }
    root.attrib.update(attributes)
    if label:
        title = ElementTree.Element("title")
        title.text = label
        root.insert(0, title)


def _short_path(data: str) -> str:
    """Rewrite a path of lines with relative coordinates; paths with curves keep absolute ones, rounded.

    Coordinates are whole hundredths of a point, so rounding does not add up along a trace.
    """
    tokens = _PATH_TOKEN.findall(data)
    if any(token.isalpha() and token not in "MLz" for token in tokens):
        return " ".join(token if token.isalpha() else _short(float(token)) for token in tokens)
    out: list[str] = []
    x = y = start_x = start_y = 0
    command, index = "", 0
    while index < len(tokens):
        if tokens[index].isalpha():
            command, index = tokens[index], index + 1
            if command == "z":
                out.append("z")
                x, y = start_x, start_y
                continue
        next_x, next_y = round(100 * float(tokens[index])), round(100 * float(tokens[index + 1]))
        index += 2
        if command == "M":
            out.append(f"M{_hundredths(next_x)} {_hundredths(next_y)}")
            start_x, start_y = next_x, next_y
        else:
            out.append(_step(next_x - x, next_y - y))
        x, y = next_x, next_y
    return "".join(out)


def _step(dx: int, dy: int) -> str:
    """Write the shortest command for a step in hundredths; none for no step."""
    if not dy:
        return f"h{_hundredths(dx)}" if dx else ""
    if not dx:
        return f"v{_hundredths(dy)}"
    return f"l{_hundredths(dx)}{'' if dy < 0 else ' '}{_hundredths(dy)}"


@lru_cache(maxsize=65_536)
def _hundredths(count: int) -> str:
    return _short(count / 100)


def _short(value: float) -> str:
    """Write a number with two decimals and no more characters than it needs: ``0.50`` is ``.5``."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    if text.startswith(("0.", "-0.")):
        text = text.replace("0", "", 1)
    return "0" if text == "-0" else text
