"""A coreset as text and as JSON: how it was made, where its rows come from, and its first rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..schemas.plain_text import TABLE_GAP, count_of, safe, terminal_columns, text_table

if TYPE_CHECKING:
    from ..query.coresets import Coreset
    from ..query.origins import Origin

VALUES_SHOWN = 20
"""Values of a field that the table of origins lists."""

_TEXT_SHOWN = 48
"""Characters of a prompt or an answer among the first rows, where there is no terminal."""

_LEAST_SHOWN = 24
_LEAST_OF_BOTH = 36
"""Columns of a terminal that the beginning of a prompt takes at least, alone and beside the
answer's."""


def coreset_lines(coreset: Coreset, by: str | None = None) -> list[str]:
    """A coreset as text: how it was made, its distances, its origins, what its rules did.

    Args:
        by: the field whose values are counted as origins; the corpus by default.
    """
    from ..query.coreset_facts import facts_of
    from ..query.coresets import pulled_shares

    purpose = f" for {', '.join(coreset.targets)}" if coreset.targets else ""
    shown = [
        f"Coreset {coreset.name}: {count_of(len(coreset), 'row')} {coreset.how}{purpose}",
        "",
    ]
    facts = list(facts_of(coreset))
    width = max(len(name) for name, _ in facts)
    shown += [f"  {name.ljust(width)}  {value}" for name, value in facts]
    if shares := pulled_shares(coreset):
        shown += ["", text_table(shares)]
    if by is not None:
        shown += ["", *origin_lines(coreset, by)]
    elif coreset.mix and len(coreset):
        shown += ["", *_origin_table("corpus", _corpora(coreset))]
    return [*shown, *([""] if coreset.notes else []), *coreset.notes]


def _corpora(coreset: Coreset) -> list[Origin]:
    """The corpora of a coreset as origins of its rows."""
    from ..query.origins import Origin

    return [Origin(share.corpus, share.picked, share.pool) for share in coreset.mix]


def origin_lines(coreset: Coreset, field: str) -> list[str]:
    """The values of a field among a coreset's rows, and how many rows of the pool have each."""
    return _origin_table(field, coreset.origins(field))


def _origin_table(field: str, origins: Sequence[Origin]) -> list[str]:
    """A table of the values that were picked, and a line on those that are not listed."""
    picked, pool = sum(origin.picked for origin in origins), sum(origin.pool for origin in origins)
    chosen = [origin for origin in origins if origin.picked]
    if not chosen:
        return ["no row was picked"]
    rows = [
        {
            field: "(none)" if origin.value is None else one_line(origin.value, _TEXT_SHOWN),
            "picked": origin.picked,
            "of the picks": f"{origin.picked / picked:.1%}",
            "in the pool": origin.pool,
            "of the pool": f"{origin.pool / pool:.1%}",
        }
        for origin in chosen[:VALUES_SHOWN]
    ]
    lines = [text_table(rows)]
    if more := chosen[VALUES_SHOWN:]:
        others = count_of(sum(origin.picked for origin in more), "row")
        lines.append(f"and {count_of(len(more), 'more value')} with {others} picked")
    return lines


def first_rows(coreset: Coreset, count: int) -> str:
    """The first rows as a table: rank, score, corpus, and the beginnings of prompt and answer.

    A row takes a line. Where a terminal has no room for both beginnings, the answer's is left out.
    """
    from ..query.result_rows import beginnings

    several = len(coreset.targets) > 1
    rows, texts = [], []
    for row in islice(coreset.rows(), count):
        score = row["score"]
        rows.append(
            {
                "rank": row["rank"],
                "score": "" if score is None else f"{score:.4g}",
                **({"target": row["target"]} if several else {}),
                "corpus": row["corpus"],
            }
        )
        texts.append(beginnings(row["messages"]))
    columns = terminal_columns()
    if columns is None:
        begin = [
            {"prompt": one_line(prompt, _TEXT_SHOWN), "answer": one_line(answer, _TEXT_SHOWN)}
            for prompt, answer in texts
        ]
    else:
        begin = _fitted_texts(texts, columns - _width(rows))
    return text_table([{**row, **shown} for row, shown in zip(rows, begin, strict=True)])


def _width(rows: Sequence[Mapping[str, Any]]) -> int:
    """Columns that a table of these rows takes, and the gap behind it."""
    from rich.cells import cell_len

    return max(map(cell_len, text_table(rows).splitlines())) + len(TABLE_GAP)


def _fitted_texts(texts: Sequence[tuple[str, str]], room: int) -> list[dict[str, str]]:
    """The beginnings of prompts and answers that share `room`; of one only where it is short."""
    from ..schemas.fitted_table import shortened

    def cut(text: str, columns: int) -> str:
        return shortened(one_line(text, columns + 1), columns)

    half = (room - len(TABLE_GAP)) // 2
    if half >= _LEAST_OF_BOTH:
        return [{"prompt": cut(asked, half), "answer": cut(said, half)} for asked, said in texts]
    room = max(room, _LEAST_SHOWN)
    return [
        {"prompt": cut(asked if asked.strip() else f"(none) {said}", room)} for asked, said in texts
    ]


def one_line(text: str, most: int) -> str:
    """The beginning of a text: white space as single spaces, control characters as escapes."""
    plain = safe(" ".join(text.split()))
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def coreset_json(coreset: Coreset, by: str | None = None) -> dict[str, Any]:
    """A coreset as JSON values: how it was made, where its rows come from, and their ids.

    Args:
        by: a field whose values are counted as well.
    """
    mix = [asdict(share) for share in coreset.mix]
    return {
        **coreset.row(),
        "parameters": coreset.parameters,
        "created_at": coreset.created_at.isoformat(),
        "mmd": coreset.mmd,
        "mix": mix,
        "pulled": coreset.pulled,
        "saved": coreset.saved,
        "removed": [row_id for row_id in coreset.ids if row_id in coreset.removed],
        **({"origins": {by: [asdict(each) for each in coreset.origins(by)]}} if by else {}),
        "notes": list(coreset.notes),
        "ids": coreset.ids,
    }
