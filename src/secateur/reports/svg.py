"""matplotlib's pictures as SVG for a page: text stays text, colours follow the page's theme, shapes carry tips."""

import re
from collections.abc import Mapping
from io import StringIO
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}"


def draw_svg(figure: Figure, *, name: str, label: str, colours: Mapping[str, str], tip: str) -> str:
    """Return a figure as an SVG element, `label` what a screen reader says.

    `colours` maps the hex colours of the drawing to CSS values; a shape whose gid begins with `tip` gets the rest of
    it as data-tip. `name` keeps the ids of several pictures on one page apart.
    """
    out = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(out.getvalue())
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag.endswith(("metadata", "}style"))]:
            parent.remove(child)
    links = [element.get(f"{LINK}href", "") for element in root.iter()]
    used = {link[1:] for link in links if link} | set(re.findall(r"url\(#([^)]+)\)", out.getvalue()))
    for element in root.iter():
        clean(element, name, used, tip)
    for group in root.iter(f"{SVG}g"):
        drop_empty(group)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-label": label}
    ElementTree.register_namespace("", SVG[1:-1])
    text = ElementTree.tostring(root, encoding="unicode")
    for colour, value in colours.items():
        text = text.replace(colour, value)
    return re.sub(r"\s*\n\s*", " ", text)


def clean(element: ElementTree.Element, name: str, used: set[str], tip: str) -> None:
    """Keep the ids that something refers to, made the picture's own; the page has the fonts; hundredths are enough."""
    own = element.attrib.pop("id", "")
    if own.startswith(tip):
        element.set("data-tip", own.removeprefix(tip))
    elif own in used:
        element.set("id", f"{name}-{own}")
    link = element.attrib.pop(f"{LINK}href", "")
    if link:
        element.set("href", f"#{name}-{link[1:]}")
    for attribute, value in list(element.attrib.items()):
        if attribute == "style":
            value = re.sub(r"font-family: [^;]+; ?", "", value)
        if attribute in ("d", "x", "y", "transform"):
            value = re.sub(r"(\.\d{2})\d+", r"\1", value)
        element.set(attribute, re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", value))
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]


def drop_empty(group: ElementTree.Element) -> None:
    for child in [child for child in group if child.tag == f"{SVG}g" and not len(child)]:
        group.remove(child)
