"""HTML pages that need neither the store nor a network: one layout, one stylesheet for all of them.

Everything from the store is text that somebody else wrote. Jinja2 escapes it, control characters
are shown as escapes, and a policy in the page's head lets no script run but those it names by their
hashes, and nothing be requested at all.
"""

from __future__ import annotations

import base64
import hashlib
import os
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..query.export import check_folder, write_text
from ..schemas.errors import UsageError
from ..schemas.version import VERSION

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"

GENERATOR = '<meta name="generator" content="coresetdb'
"""By which a file is known to be one of these pages."""

_JOINERS = "\u200c\u200d\u00ad"
"""Invisible, but part of how words and emoji are written."""


def visible(value: object) -> str:
    """A text whose control characters and marks of direction are written as escapes.

    A line that ends as on Windows ends like any other.
    """
    text = str(value).replace("\r\n", "\n")
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable()
        or character in "\n\t"
        or character in _JOINERS
        or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def cut(value: object, most: int = 80) -> str:
    """The beginning of a text on one line, for names and cells of tables."""
    text = visible(" ".join(str(value).split()))
    return text if len(text) <= most else text[: most - 1] + "…"


def number(value: float | int | None, digits: int = 3) -> str:
    """A number for a cell: whole ones with commas, others with significant digits."""
    if value is None or value != value:
        return ""
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


@cache
def environment() -> Environment:
    """The templates, with autoescape."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalized(value: Any) -> Any:
        """A text from the store made visible; what templates and macros made stays."""
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=finalized,
    )
    templates.filters |= {"cut": cut, "number": number, "visible": visible}
    return templates


def render(template: str, scripts: Sequence[str] = (), **values: Any) -> str:
    """Return a page as text.

    Args:
        template: its file under templates/, without `.html.jinja`.
        scripts: that the page runs.
        values: what the template names.
    """
    from markupsafe import Markup

    policy = "; ".join(
        [
            "default-src 'none'",
            "style-src 'unsafe-inline'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "script-src " + (" ".join(map(_hash_of, scripts)) or "'none'"),
        ]
    )
    page = environment().get_template(f"{template}.html.jinja")
    return page.render(
        version=VERSION,
        policy=policy,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        **values,
    )


def _hash_of(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def check_out(out: str, overwrite: bool) -> None:
    """Refuse a file that a page must not be written to, before anything is computed.

    Raises:
        UsageError: the name does not end in .html, it cannot be written there, or there is a file
            that is no page of ours.
    """
    if not out.endswith((".html", ".htm")):
        raise UsageError(f"{out}: name the file with the suffix .html")
    check_folder(out)
    if overwrite or not os.path.exists(out):
        return
    with open(out, encoding="utf-8", errors="replace") as file:
        if GENERATOR in file.read(2000):
            return
    raise UsageError(
        f"{out} is there already, and coresetdb did not write it: choose another name, or replace "
        "it with --overwrite"
    )


def write_page(out: str, text: str) -> None:
    """Write a page.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(out, text)
