"""Tools and tool calls: the forms in use, and the form they are kept in.

Tools are kept as a list in OpenAI's form, {type: function, function: {name, description,
parameters}}. The whole list, or any tool in it, may be JSON text; Anthropic's tools, those of
OpenAI's Responses and Gemini's declarations are rewritten. A bare {name, description, parameters}
stays as it is: rows that older versions read so keep their ids.

Calls are kept as a list of {id, type: function, function: {name, arguments}}.
"""

from __future__ import annotations

from typing import Any

from ...schemas.canonical import canonical_json
from .importer import Rejected, decoded, kind_of
from .padding import without_padding

DECLARATIONS = ("functionDeclarations", "function_declarations")
SCHEMAS = ("input_schema", "inputSchema")
OWN_KINDS = ("function", "custom", None)
"""The `type` of a tool that is described here; another one names a tool that the provider has."""


def tools_of(value: Any, name: str) -> str | None:
    """The tools that a column describes, as canonical JSON; None where it is empty.

    Raises:
        Rejected: it is neither a list of tools, nor one tool, nor JSON text of either.
    """
    value = _plain(value, name)
    if not value:
        return None
    if isinstance(value, list):
        return canonical_json([tool for item in value for tool in _tool(item)])
    tools = _tool(value)
    return canonical_json(value if tools == [value] else tools)


def _plain(value: Any, name: str) -> Any:
    """A list or object, decoded where it is JSON text; None where it is empty."""
    if isinstance(value, str):
        value = decoded(value, name) if value.strip() else None
    else:
        value = without_padding(value)
    if value is None or value == [] or value == {}:
        return None
    if not isinstance(value, list | dict):
        raise Rejected(f"{name} is {kind_of(value)}, not a list")
    return value


def _tool(item: Any) -> list[Any]:
    """The tools that one entry of the list describes."""
    item = _object_in(item)
    if not isinstance(item, dict):
        return [item]
    declared = next((item[key] for key in DECLARATIONS if isinstance(item.get(key), list)), None)
    if declared is not None:
        return [_function(each) for each in declared if isinstance(each, dict)]
    inner = _object_in(item.get("function"))
    if inner is not None:
        return [{**item, "type": item.get("type") or "function", "function": inner}]
    is_own = item.get("type") in OWN_KINDS and isinstance(item.get("name"), str)
    if is_own and (item.get("type") or any(key in item for key in SCHEMAS)):
        return [_function(item)]
    return [item]


def _function(item: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's form of a tool whose fields stand side by side."""
    function = {key: value for key, value in item.items() if key not in ("type", *SCHEMAS)}
    schema = next((item[key] for key in SCHEMAS if item.get(key) is not None), None)
    if schema is not None:
        function["parameters"] = schema.get("json", schema) if isinstance(schema, dict) else schema
    return {"type": "function", "function": function}


def tool_calls_of(value: Any) -> str | None:
    """The calls in a turn's `tool_calls`, as canonical JSON; None where there is none.

    Raises:
        Rejected: it is no list of calls.
    """
    value = _plain(value, "tool_calls")
    if not value:
        return None
    calls = value if isinstance(value, list) else [value]
    return canonical_json([_object_in(call) for call in calls])


def _object_in(item: Any) -> Any:
    """The object that JSON text stands for; anything else as it is."""
    if isinstance(item, str) and item.lstrip().startswith("{"):
        try:
            return decoded(item, "")
        except Rejected:
            return item
    return item


def calls_in(body: Any) -> list[Any]:
    """Tool calls in OpenAI's form from {name, arguments}, a list of such, or JSON text of either.

    Raises:
        Rejected: it is none of these.
    """
    if isinstance(body, str):
        body = decoded(body, "function call")
    else:
        body = without_padding(body)
    calls = body if isinstance(body, list) else [body]
    if not calls or not all(isinstance(call, dict) and _is_call(call) for call in calls):
        raise Rejected("function call without a name")
    return [call if "function" in call else call_of(None, call) for call in calls]


def _is_call(call: dict[str, Any]) -> bool:
    inner = call.get("function")
    return "name" in call or (isinstance(inner, dict) and "name" in inner)


def call_of(call_id: Any, function: dict[str, Any]) -> dict[str, Any]:
    """One call in OpenAI's form; `call_id` is left out where it is None."""
    call: dict[str, Any] = {} if call_id is None else {"id": call_id}
    return {**call, "type": "function", "function": function}
