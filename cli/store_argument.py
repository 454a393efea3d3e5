"""The argument STORE of every command, and its default from the environment.

Where CORESETDB_STORE names a store, STORE may be left out. If a command takes so many arguments in
all, their number tells whether it was; if it takes any number (`select`, `ingest`), the first one
is STORE if there is a store at that address, and an argument of the command if not.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import click

from ..schemas.environment import STORE_VARIABLE, default_store, expanded
from ..schemas.errors import UsageError
from ..store.nearby import is_local_store, stores_in

HELP = f"STORE may be left out where the environment variable {STORE_VARIABLE} names one."


class StoreArgument(click.Argument):
    """The first argument of a command. Eager, as it settles what the others are."""

    def __init__(self, *declarations: Any, **settings: Any) -> None:
        settings["metavar"] = "STORE"
        super().__init__(*declarations, **settings, is_eager=True)

    def get_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[STORE]"]

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        others = [
            param
            for param in ctx.command.params
            if isinstance(param, click.Argument) and param is not self
        ]
        words = [word for param in (self, *others) for word in _words(opts.get(param.name))]
        default = default_store()
        if not ctx.resilient_parsing:
            if default and not args and _left_out(words, others):
                # Click matched words and arguments as if STORE were there; the arguments processed
                # after this one read the same dictionary.
                assert isinstance(opts, dict)
                _match(opts, (self, *others), [default, *words])
            elif not default and not words:
                say = f"Name a store, or set {STORE_VARIABLE}.{_stores_here()}"
                raise click.MissingParameter(say, ctx=ctx, param=self)
            elif words and ctx.command.name != "init" and not _is_store(words[0]):
                self._explain(ctx, opts, words, others)
            elif not default:
                _refuse_too_few(ctx, words[1:], others)
        return super().handle_parse_result(ctx, opts, args)

    def _explain(
        self,
        ctx: click.Context,
        opts: Mapping[str, Any],
        words: Sequence[str],
        others: Sequence[click.Argument],
    ) -> None:
        """Refuse a first word that is no store, where it is clear what went wrong.

        Raises:
            UsageError: another word or an option names a store, or the first word is a file.
            MissingParameter: a word is missing, which STORE may be.
        """
        first, rest = words[0], list(words[1:])
        if "://" in first or first == default_store():
            return
        given = list(_option_words(ctx, opts))
        more = " ..." if given else ""
        command = ctx.command_path.split()
        stores = [_words(opts.get(param.name)) for param in others if "STORE" in str(param.metavar)]
        for at, word in enumerate(rest):
            if is_local_store(word) and [word] not in stores:
                order = [word, first, *rest[:at], *rest[at + 1 :]]
                raise UsageError(
                    f"{first} is no store, and {word} is one. STORE comes first: "
                    f"{shlex.join([*command, *order])}{more}"
                )
        for option, value in given:
            if is_local_store(value):
                is_file = bool(Path(first).suffix)
                order = [value, *rest] if is_file else [value, first, *rest]
                raise UsageError(
                    f"{first} is no store, and {value} is one, which was given for {option}. STORE "
                    f"comes first: {shlex.join([*command, *order])} {option} "
                    f"{quote(first) if is_file else 'FILE'}"
                )
        here, known = stores_in(Path()), _stores_here()
        if expanded(first).is_file():
            store = here[0] if len(here) == 1 else "STORE"
            raise UsageError(
                f"{first} is a file, no store.{known} STORE comes first: "
                f"{shlex.join([*command, store, *words])}{more}"
            )
        required = [param for param in others if param.required]
        if len(rest) < len(required):
            missing = required[len(rest)]
            raise click.MissingParameter(
                f"Nothing is left for {missing.name}: {first} was taken for STORE, which comes "
                f"first, and there is no such store.{known}",
                ctx=ctx,
                param=missing,
            )


def _refuse_too_few(
    ctx: click.Context, given: Sequence[str], others: Sequence[click.Argument]
) -> None:
    """Refuse too few words after STORE, and say what the last of them was taken for.

    Raises:
        MissingParameter: there are too few.
    """
    required = [param for param in others if param.required]
    if not 0 < len(given) < len(required):
        return
    names = [str(param.name).upper() for param in required]
    raise click.MissingParameter(
        f"{given[-1]} was taken for {names[len(given) - 1]}, which comes before "
        f"{names[len(given)]}.",
        ctx=ctx,
        param=required[len(given)],
    )


def _option_words(ctx: click.Context, opts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The options that were given, each with a text that it was given."""
    for param in ctx.command.params:
        if isinstance(param, click.Option):
            for word in _words(opts.get(param.name)):
                yield param.opts[0], word


def _stores_here() -> str:
    """The stores in the working folder, as a sentence; "" where there is none."""
    here = stores_in(Path())
    return f" Stores here: {', '.join(here)}." if here else ""


def _words(value: Any) -> list[str]:
    """The words that click's parser gave an argument; none where it gave none."""
    if isinstance(value, str):
        return [value]
    return list(value) if isinstance(value, tuple) else []


def _left_out(words: Sequence[str], others: Sequence[click.Argument]) -> bool:
    """Whether STORE is not among the words."""
    least = sum(1 for param in others if param.required)
    most = math.inf if any(param.nargs < 0 for param in others) else len(others)
    if least < len(words) <= most:
        return not _is_store(words[0])
    return len(words) <= least


def _is_store(address: str) -> bool:
    if "://" not in address:
        return is_local_store(address)
    from ..store.place import place_at

    return place_at(address).exists("pool.lance")


def _match(opts: dict[str, Any], arguments: Sequence[click.Argument], words: Sequence[str]) -> None:
    """Deal words out to arguments in their order; those behind one that takes many get one each."""
    rest = list(words)
    for at, param in enumerate(arguments):
        behind = len(arguments) - at - 1
        count = max(0, len(rest) - behind) if param.nargs < 0 else 1
        words_of_it, rest = rest[:count], rest[count:]
        opts.pop(param.name, None)
        if words_of_it:
            opts[param.name] = tuple(words_of_it) if param.nargs < 0 else words_of_it[0]
