"""Figures inside of a page: an SVG file is a document of its own, and must not disturb the one that it is put into."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from markupsafe import Markup

_SVG = "http://www.w3.org/2000/svg"
ET.register_namespace("", _SVG)
ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def inline(svg: str, name: str, alt: str) -> Markup:
    """An SVG to stand in a page with others: ids of its own, as wide as the page lets it be, and words in its place."""
    root = ET.fromstring(svg)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    used = set(re.findall(r"""(?:url\(|href=["'])#([^)"']+)""", svg))
    for element in root.iter():
        if element.get("id") not in used:  # some of them are there twice
            element.attrib.pop("id", None)
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key.endswith("href"):
                element.set(key, re.sub(r"^#", f"#{name}-", value))
            else:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
        if element.tag == f"{{{_SVG}}}style":  # or it would be for the whole page
            element.text = f"#{name}-svg {{{element.text}}}"
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    root.attrib.update({"id": f"{name}-svg", "role": "img", "aria-label": alt})
    return Markup(ET.tostring(root, encoding="unicode"))
