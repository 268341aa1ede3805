"""HTML and SVG elements as strings that are escaped by construction: only `Safe` passes through unchanged."""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = frozenset({"br", "meta"})


class Safe(str):
    """Markup, already escaped. Made by `tag`, `join` and nothing else, but for the style sheet."""

    __slots__ = ()


def escape(text: str) -> Safe:
    return text if isinstance(text, Safe) else Safe(html.escape(str(text), quote=True))


def join(parts: Iterable[str]) -> Safe:
    return Safe("".join(escape(part) for part in parts))


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Safe:
    """One element. An attribute that is None is left out; `class_` is class, `stroke_width` is stroke-width."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Safe(f"<{name}{shown}>")
    return Safe(f"<{name}{shown}>{join(children)}</{name}>")


def _attribute(value: str | float) -> str:
    """Coordinates to a hundredth of a pixel: enough for the eye, and the page stays small."""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return html.escape(str(value), quote=True)
