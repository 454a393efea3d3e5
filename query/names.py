"""Names that users give to targets and coresets."""

from __future__ import annotations

import re

from ..schemas.errors import UsageError

LONGEST = 64
_FORM = re.compile(rf"[A-Za-z0-9._-]{{1,{LONGEST}}}")


def check_name(kind: str, name: str) -> str:
    """The name itself, if it can be one.

    Raises:
        UsageError: other characters, too long, or two dots in a row (Lance tags refuse those).
    """
    if not _FORM.fullmatch(name) or ".." in name:
        raise UsageError(
            f"{kind} name {name!r}: use 1 to {LONGEST} letters, digits, dots, dashes and "
            "underscores, no two dots in a row"
        )
    return name


def quoted(text: str) -> str:
    """A text as a literal in a Lance filter expression."""
    return "'" + text.replace("'", "''") + "'"
