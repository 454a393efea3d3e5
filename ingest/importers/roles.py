"""The one table of roles: what the speaker of a turn is called in wide use, and what it is here.

Names are compared without case, and `-` and blanks are as good as `_`. `--role NAME=ROLE` adds a
name, or gives a known one another meaning.
"""

from __future__ import annotations

import shlex
from collections import Counter
from functools import lru_cache

from ...schemas.plain_text import count_of
from ..readers.options import ReadOptions
from .importer import Rejected

CALL = "tool_call"
"""The role of a turn that is a tool call and nothing else: an assistant turn with `tool_calls`."""

SHOWN = 5
"""Unknown speakers that are named at the end; the reasons of the rejects name them all."""

NAMES = {
    "system": "system developer sys system_prompt system_message",
    "user": "user human prompter client customer person student input question query prompt "
    "instruction",
    "assistant": "assistant gpt chatgpt model bing bard ai bot chatbot claude gemini llm agent "
    "teacher tutor output answer response completion",
    "tool": "tool function observation ipython environment tool_response tool_responses "
    "tool_result tool_results tool_output tool_outputs tool_return function_response "
    "function_result function_output function_return function_call_output user_tool api_response "
    "code_output code_execution execution execution_result",
    CALL: "function_call function_calls tool_call tool_calls",
}
"""Role -> the names it goes by."""

ROLES = {name: role for role, names in NAMES.items() for name in names.split()}


def role_of(name: str, options: ReadOptions) -> str:
    """The role a turn's speaker has: system, user, assistant, tool, or `CALL`.

    Raises:
        Rejected: nobody is known by that name; the reason offers `--role`.
    """
    role = known_role(name, options)
    if role is None:
        raise UnknownRole(name[:40])
    return role


class UnknownRole(Rejected):
    """A turn of somebody who is not known."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"unknown role {name!r}: {offer(name)}")


def offer(name: str) -> str:
    """What to type so that a speaker is known."""
    return f"--role {shlex.quote(f'{name}=user')} reads it (or =assistant, =system, =tool)"


class UnknownRoles:
    """The speakers that were not known, with the records that were rejected for them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, rejected: Rejected) -> None:
        """Count a rejected record if an unknown speaker was the reason."""
        if isinstance(rejected, UnknownRole):
            self.counts[rejected.name] += 1

    def sentences(self) -> list[str]:
        """One sentence for each speaker, the most frequent first; of many, the first few."""
        return [
            f"{count_of(count, 'record')} rejected for the unknown role {name!r}: {offer(name)}"
            for name, count in self.counts.most_common(SHOWN)
        ]


def known_role(name: str, options: ReadOptions) -> str | None:
    """As `role_of`, but None for an unknown name."""
    own = options.roles
    if own and (role := own.get(name) or _own(tuple(own.items())).get(plain(name))):
        return role
    return ROLES.get(name) or ROLES.get(plain(name))


def plain(name: str) -> str:
    """The name as it stands in the table."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


@lru_cache(8)
def _own(roles: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return {plain(name): role for name, role in roles}
