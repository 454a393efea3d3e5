"""The chat template of a model, and how a conversation is rendered with it.

A template is a program of somebody else's. A plain one (`plain_templates`) is rendered here, any
other one in a process with limits (`limited_rendering`), and so are conversations of very many
turns; the text is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...schemas.errors import BackboneError
from .limited_rendering import LimitedRenderer, LimitReached, Refused
from .template_environment import template_environment

DEFAULT, WITH_TOOLS = "default", "tool_use"

# For tokenizers without a template. The rendering of a turn depends on that turn alone.
PLAIN_TEMPLATE = """\
{{- bos_token if bos_token is defined -}}
{%- if tools -%}{{- '### Tools:\\n' ~ (tools | tojson) ~ '\\n\\n' -}}{%- endif -%}
{%- for message in messages -%}
{{- '### ' ~ (message.role | capitalize) ~ ':\\n' ~ message.content -}}
{%- if message.tool_calls -%}{{- message.tool_calls | tojson -}}{%- endif -%}
{%- if message.role == 'assistant' and eos_token is defined -%}{{- eos_token -}}{%- endif -%}
{{- '\\n\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '### Assistant:\\n' -}}{%- endif -%}
"""


_MANY_TURNS = 200  # what a plain template takes is bounded, but not always in proportion
_LONGEST_TEMPLATE = 1 << 20  # characters
_MOST_FAILURES = 3


class RowRefusedError(BackboneError):
    """This conversation cannot be encoded with this template; others can."""


class ChatTemplate:
    """Renders conversations to text; `special` holds bos_token, eos_token... as strings."""

    def __init__(self, templates: Mapping[str, str], special: Mapping[str, str]) -> None:
        texts = dict(templates or {DEFAULT: PLAIN_TEMPLATE})
        self.special = dict(special)
        self._compiled: dict[str, Any] = {}
        self._names = frozenset(texts)
        self._limited = LimitedRenderer(texts, special)
        self._failures = 0
        environment = template_environment()
        for name, text in texts.items():
            if len(text) > _LONGEST_TEMPLATE:
                raise BackboneError(
                    f"the chat template {name!r} has {len(text):,} characters; "
                    f"{_LONGEST_TEMPLATE:,} is the most"
                )
            try:
                if not _why_not_plain(environment, text):
                    self._compiled[name] = environment.from_string(text)
            except Exception as error:  # any fault of a foreign template, Jinja's or Python's
                raise BackboneError(
                    f"the chat template {name!r} does not compile: {error}. Repair it in the "
                    "model's folder"
                ) from error
        if DEFAULT not in texts:
            raise BackboneError(
                f"the model has the chat templates {sorted(texts)} but none named "
                f"{DEFAULT!r}: put one into chat_template.jinja"
            )
        if len(self._compiled) < len(texts):
            try:
                self._limited.compile()
            except (LimitReached, Refused) as error:
                raise BackboneError(
                    f"the chat templates {sorted(texts)} do not compile: {error}. Repair them in "
                    "the model's folder"
                ) from error

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[Any] | None = None,
        generation: bool = False,
    ) -> str:
        """The text that the model would get.

        Raises:
            RowRefusedError: the template has no form for this conversation, or takes too long or
                too much memory for it.
            BackboneError: it took too long or too much for several conversations.
        """
        name = WITH_TOOLS if tools and WITH_TOOLS in self._names else DEFAULT
        plain = self._compiled.get(name)
        if plain is None or len(messages) > _MANY_TURNS:
            return self._render_limited(name, messages, tools, generation)
        try:
            return plain.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=generation,
                **self.special,
            )
        except Exception as error:  # a foreign program may raise anything
            raise RowRefusedError(f"the chat template refuses it: {error}") from error

    def _render_limited(
        self, name: str, messages: list[dict[str, Any]], tools: list[Any] | None, generation: bool
    ) -> str:
        variables = {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": generation,
        }
        try:
            return self._limited.render(name, variables)
        except Refused as error:
            raise RowRefusedError(f"the chat template refuses it: {error}") from error
        except LimitReached as error:
            self._failures += 1
            if self._failures >= _MOST_FAILURES:
                raise BackboneError(
                    f"the chat template {name!r} cannot be used: {error} (so it was for "
                    f"{self._failures} conversations). Repair it in the model's folder"
                ) from error
            raise RowRefusedError(f"the chat template cannot render it: {error}") from error


def _why_not_plain(environment: Any, text: str) -> str:
    from .plain_templates import why_not_plain

    try:
        return why_not_plain(environment.parse(text))
    except RecursionError:
        return "it is nested too deeply"
