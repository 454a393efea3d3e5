"""A row of the pool as HTML: its text, why it was chosen, and what is near it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ..reports.page import TEMPLATES, cut, environment, number
from ..reports.rows import explained_row, text_of

if TYPE_CHECKING:
    from ..query.explaining.explanation import Explanation

_SHOWN_ELSEWHERE = {"id", "messages", "tools", "metadata", "coresets", "corpus"}


# Twice, to count for more than the dark colours.
_OWN = (
    ":scope:scope { --ground: transparent; --card: transparent; --text: currentColor; padding: 0; "
)
_OWN += "max-width: none; width: 100%; contain: inline-size; }"  # no wider than the page's column

_DARK = re.compile(
    r"@media screen and \(prefers-color-scheme: dark\) \{\n\s*:root (\{.*?\})\n\}\n", re.DOTALL
)


@cache
def style() -> str:
    """The reports' stylesheet, confined to elements of the class `coresetdb`.

    Its dark colours are those within an element of the class `dark`, as marimo marks the page.
    """
    sheet = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    sheet = _DARK.sub(r".dark :root \1\n", sheet)
    sheet = re.sub(r":root\b|\bbody\b|\bhtml\b", ":scope", sheet)
    return f"<style>@scope (.coresetdb) {{ {sheet} {_OWN} }}</style>"


def row_html(
    row: Mapping[str, Any],
    explanation: Explanation | None,
    neighbours: Sequence[Mapping[str, Any]],
    feature: str,
) -> str:
    """Return a row as HTML, everything from the store escaped.

    Args:
        row: as `Explorer.row` gives it.
        explanation: of why it is in a coreset, where it is in one.
        neighbours: as `Explorer.neighbours` gives them.
        feature: by whose vectors they are near.
    """
    parts: Any = environment().get_template("parts.html.jinja").module
    pieces = []
    if explanation is not None:
        pieces.append(parts.explained(explained_row(explanation, "row")))
    else:
        pieces.append(parts.turns(text_of(row["messages"])))
    pieces.append(parts.facts(_facts(row)))
    near = [
        (
            f"{each['cosine']:.4f}",
            cut(each["corpus"]),
            *(cut(each[text] or "") for text in ("question", "answer")),
            each["id"],
        )
        for each in neighbours
    ]
    title = f"Nearest by {feature}"
    names = ("cosine", "corpus", "question", "answer", "id")
    pieces.append(parts.table(names, near, title, (2, 3)))
    return f'{style()}<div class="coresetdb">{"".join(map(str, pieces))}</div>'


def _facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("id", str(row["id"])), ("corpus", cut(row["corpus"]))]
    if row["tools"]:
        facts.append(("tools", cut(row["tools"], 400)))
    member = ", ".join(f"{name} (#{rank:,})" for name, rank in row["coresets"].items())
    facts.append(("coresets", cut(member or "none", 400)))
    for name, value in row.items():
        if name in _SHOWN_ELSEWHERE or value is None or name.startswith("map_"):
            continue
        shown = number(value) if isinstance(value, int | float) else cut(value, 200)
        facts.append((cut(name), shown))
    return facts
