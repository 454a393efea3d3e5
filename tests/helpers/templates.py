"""Small chat templates, each with a habit of templates in use; all write tokens of tiny models."""

from __future__ import annotations

# As Qwen3's: reasoning under a key or in a block, of answers after the last question alone; the
# last answer gets a block even when it has none.
LAST_REASONING = """\
{%- set seen = namespace(query=-1) -%}
{%- for message in messages if message.role == 'user' -%}
{%- set seen.query = messages.index(message) -%}
{%- endfor -%}
{%- for message in messages -%}
{%- set text, reason = message.content, '' -%}
{%- if message.reasoning_content is string -%}
{%- set reason = message.reasoning_content -%}
{%- elif message.role == 'assistant' and '</think>' in text -%}
{%- set reason = text.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- set text = text.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- if message.role == 'assistant' -%}
{{- '<|assistant|>' -}}
{% generation %}
{%- if loop.index0 > seen.query and (loop.last or reason) -%}
{{- '<think>\\n' ~ reason ~ '\\n</think>\\n\\n' ~ text -}}
{%- else -%}{{- text -}}{%- endif -%}
{%- for call in message.tool_calls or [] -%}
{{- '<call>' ~ (call.function | tojson) ~ '</call>' -}}
{%- endfor -%}
{{- '<|end|>' -}}
{% endgeneration %}{{- '\\n' -}}
{%- else -%}
{{- '<|' ~ message.role ~ '|>' ~ text ~ '<|end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

# As gpt-oss's: reasoning is a message of its own, of the last answer alone, which ends with another
# token; no text stands beside reasoning and a call.
CHANNELS = """\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{- '<|assistant|>' -}}
{% generation %}
{%- if message.thinking and loop.last -%}
{{- 'analysis ' ~ message.thinking ~ '<|end|><|assistant|>' -}}
{%- endif -%}
{%- if message.tool_calls -%}
{%- if message.content and message.thinking -%}{{- raise_exception('both') -}}{%- endif -%}
{{- 'call ' ~ message.tool_calls[0].function.name -}}
{{- message.tool_calls[0].function.arguments | tojson ~ '<|tool|>' -}}
{%- else -%}
{{- 'final ' ~ message.content ~ ('<|endoftext|>' if loop.last else '<|end|>') -}}
{%- endif -%}
{% endgeneration %}
{%- else -%}{{- '<|' ~ message.role ~ '|>' ~ message.content ~ '<|end|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

# As DeepSeek's: reasoning is cut out of every answer; calls stand before the text, and their
# arguments must be text.
CUTTING = """\
{%- for message in messages -%}
{%- set text = message.content.split('</think>')[-1] -%}
{%- if message.role == 'assistant' -%}
{{- '<|assistant|>' -}}
{% generation %}
{%- for call in message.tool_calls or [] -%}
{{- call['type'] + ' ' + call['function']['name'] + ' ' + call['function']['arguments'] + '; ' -}}
{%- endfor -%}
{{- text ~ '<|end|>' -}}
{% endgeneration %}
{%- else -%}{{- '<|' ~ message.role ~ '|>' ~ text -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

# A template that takes contents as lists of parts alone, as those of models that see images.
PARTS = """\
{%- for message in messages -%}
{{- '<|' ~ message.role ~ '|>' -}}
{%- for part in message.content -%}
{%- if part.type == 'text' -%}{{- part.text -}}{%- endif -%}
{%- if part.type == 'thinking' -%}{{- '[THINK]' ~ part.thinking ~ '[/THINK]' -}}{%- endif -%}
{%- endfor -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

# Nothing closes a turn but the end of the conversation.
ENDS_LAST = """\
{%- for message in messages -%}
{{- '<|' ~ message.role ~ '|>' -}}
{%- if message.role == 'assistant' -%}
{% generation %}{{- message.content -}}{{- eos_token if loop.last -}}{% endgeneration %}
{%- else -%}{{- message.content -}}{{- eos_token if loop.last -}}{%- endif -%}
{{- '\\n' if not loop.last -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

# It knows no tools.
TOOLLESS = """\
{%- for message in messages -%}
{{- '<|' ~ message.role ~ '|>' -}}
{%- if message.role == 'assistant' -%}
{% generation %}{{- message.content ~ '<|end|>' -}}{% endgeneration %}
{%- else -%}{{- message.content ~ '<|end|>' -}}{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
