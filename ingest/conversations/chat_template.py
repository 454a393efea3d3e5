"""The chat template of a model, and how a conversation is rendered with it.

The environment is the one that templates are written for (transformers' sandbox and its filters),
but `strftime_now` gives a fixed date: a template that writes today's date would otherwise give the
same row other features tomorrow.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

from ...schemas.errors import BackboneError

TEMPLATE_DATE = datetime.datetime(2024, 7, 26)
"""The date that every template sees; part of the identity of a backbone."""

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


class RowRefusedError(BackboneError):
    """This conversation cannot be encoded with this template; others can."""


class ChatTemplate:
    """Renders conversations to text; `special` holds bos_token, eos_token... as strings."""

    def __init__(self, templates: Mapping[str, str], special: Mapping[str, str]) -> None:
        environment = _environment()
        self.special = dict(special)
        self._compiled: dict[str, Any] = {}
        for name, text in (templates or {DEFAULT: PLAIN_TEMPLATE}).items():
            try:
                self._compiled[name] = environment.from_string(text)
            except Exception as error:  # any fault of a foreign template, Jinja's or Python's
                raise BackboneError(
                    f"the chat template {name!r} does not compile: {error}. Repair it in the "
                    "model's folder"
                ) from error
        if DEFAULT not in self._compiled:
            raise BackboneError(
                f"the model has the chat templates {sorted(self._compiled)} but none named "
                f"{DEFAULT!r}: put one into chat_template.jinja"
            )

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[Any] | None = None,
        generation: bool = False,
    ) -> str:
        """The text that the model would get.

        Raises:
            RowRefusedError: the template has no form for this conversation.
        """
        name = WITH_TOOLS if tools and WITH_TOOLS in self._compiled else DEFAULT
        try:
            return self._compiled[name].render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=generation,
                **self.special,
            )
        except Exception as error:  # a foreign program may raise anything
            raise RowRefusedError(f"the chat template refuses it: {error}") from error


def _environment() -> Any:
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks answers for trainers; here it just passes them through."""

        tags = {"generation"}  # noqa: RUF012 (Jinja's own form)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def tojson(value: Any, ensure_ascii: bool = False, **form: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **form)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = TEMPLATE_DATE.strftime
    return environment
