"""How far a shard is, told while passes go over its rows: each sees all of them, or some."""

from __future__ import annotations

from collections.abc import Callable


class Telling:
    """Turns what passes have seen into rows and tokens done, each counted once.

    Args:
        tell: is given the rows and tokens done since it was last called; None where nobody listens.
        rows, tokens: of the shard.
        work: tokens that its passes see, all together.
    """

    def __init__(
        self, tell: Callable[[int, int], None] | None, rows: int, tokens: int, work: int
    ) -> None:
        self._tell, self._rows, self._tokens, self._work = tell, rows, tokens, work
        self._seen = 0
        self._told = (0, 0)

    def saw(self, tokens: int) -> None:
        """A pass has seen so many tokens more."""
        self._seen += tokens
        self._tell_up_to(
            self._rows * self._seen // self._work, self._tokens * self._seen // self._work
        )

    def done(self) -> None:
        """Everything is made, with passes or without."""
        self._tell_up_to(self._rows, self._tokens)

    def _tell_up_to(self, rows: int, tokens: int) -> None:
        before = self._told
        if self._tell and (rows, tokens) != before:
            self._told = (rows, tokens)
            self._tell(rows - before[0], tokens - before[1])
