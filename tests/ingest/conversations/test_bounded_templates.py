"""A chat template may be any program: its time and memory are bounded, its text is the same."""

from __future__ import annotations

import pickle

import pytest
from helpers import templates

from coresetdb.ingest.conversations import limited_rendering
from coresetdb.ingest.conversations.chat_template import (
    PLAIN_TEMPLATE,
    ChatTemplate,
    RowRefusedError,
)
from coresetdb.ingest.conversations.plain_templates import why_not_plain
from coresetdb.ingest.conversations.template_environment import template_environment
from coresetdb.schemas.errors import BackboneError

ROWS = [
    {"role": "user", "content": "hello % {{ x }} é \udcff"},
    {"role": "assistant", "content": "ok\n"},
] * 2

PLAIN = {
    name: getattr(templates, name)
    for name in ("LAST_REASONING", "CHANNELS", "CUTTING", "PARTS", "ENDS_LAST", "TOOLLESS")
} | {
    "ours": PLAIN_TEMPLATE,
    "collected": "{% set ns = namespace(s='') %}{% for m in messages %}"
    "{% set ns.s = ns.s + m.content %}{% endfor %}{{ ns.s }}",
    "conditional": "{% for m in messages %}{% set c = m.content if m.content is string else '' %}"
    "{{ c | trim }}{% if not loop.last and loop.index0 % 2 == 0 %}|{% endif %}{% endfor %}",
    "macro": "{% macro show(m) %}<{{ m.role }}>{{ m.content.split('x')[-1] }}{% endmacro %}"
    "{% for m in messages[1:] %}{{ show(m) }}{% endfor %}",
    "parts": "{% for m in messages %}{% for p in m.content %}{{ p }}{% endfor %}{% endfor %}",
}

GREEDY = [
    "{{ 'a' * 3000000000 }}",
    "{{ messages[0].content * 300000000 }}",
    "{{ 'a' | center(3000000000) }}",
    "{{ 'a'.ljust(3000000000) }}",
    "{{ messages | map('center', 1000000000) | list }}",
    "{{ messages | tojson(indent=100000000) }}",
    "{{ (1).to_bytes(3000000000, 'big') }}",
    "{% set a0 = 'aaaaaaaaaa' %}"
    + "".join(f"{{% set a{n + 1} = a{n} ~ a{n} %}}" for n in range(40))
    + "{{ a40 }}",
]
ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% set x = [1, 1] %}" + "{% set x = [x, x, x, x, x, x, x, x] %}" * 14 + "{{ x }}",
]
NOT_PLAIN = [
    *GREEDY,
    *ENDLESS,
    "{{ '%1000000000d' % 2 }}",
    "{{ messages[0].content % 2 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ 2 ** 10000000000 }}",
    "{{ lipsum(n=10000000) }}",
    "{{ messages[0].content | replace('', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa') }}",
    "{{ messages | join(messages[0].content) }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{% for a in messages %}{% for b in messages %}{% for c in messages %}{% endfor %}{% endfor %}"
    "{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for m in messages %}{% set ns.x = ns.x + ns.x %}"
    "{% endfor %}",
    "{% set ns = namespace(a='a', b='b') %}{% for m in messages %}{% set ns.a = ns.a ~ ns.b %}"
    "{% set ns.b = ns.b ~ ns.a %}{% endfor %}",
    "{% set ns = namespace(x='\"') %}{% for m in messages %}{% set ns.x = ns.x | tojson %}"
    "{% endfor %}",
    "{% macro a() %}{{ b() }}{{ b() }}{% endmacro %}"
    "{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{% macro a(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns = namespace(y='a') %}"
    "{% for m in messages %}{% set ns.y = a(ns.y) %}{% endfor %}",
]


@pytest.mark.parametrize("name", PLAIN)
def test_ordinary_templates_are_rendered_as_they_are(name):
    template = ChatTemplate({"default": PLAIN[name]}, {"eos_token": "</s>"})
    assert list(template._compiled) == ["default"]


@pytest.mark.parametrize("text", NOT_PLAIN)
def test_what_could_grow_without_bound_is_not_plain(text):
    assert why_not_plain(template_environment().parse(text))


@pytest.mark.parametrize("text", GREEDY)
def test_memory_is_bounded(text, monkeypatch):
    monkeypatch.setattr(limited_rendering, "SECONDS", 30.0)
    template = ChatTemplate({"default": text}, {})
    with pytest.raises(RowRefusedError, match=r"GiB of memory|MiB of text"):
        template.render(ROWS)


@pytest.mark.parametrize("text", ENDLESS)
def test_time_is_bounded_and_a_template_is_given_up(text, monkeypatch):
    monkeypatch.setattr(limited_rendering, "SECONDS", 0.5)
    template = ChatTemplate({"default": text}, {})
    for _ in range(2):
        with pytest.raises(RowRefusedError, match=r"longer than 0\.5 s|GiB of memory"):
            template.render(ROWS)
    with pytest.raises(BackboneError, match="cannot be used"):
        template.render(ROWS)


def test_the_text_is_the_same_either_way():
    for text in PLAIN.values():
        plain = ChatTemplate({"default": text}, {"eos_token": "</s>", "bos_token": "é"})
        for generation in (False, True):
            try:
                expected = plain.render(ROWS, None, generation)
            except RowRefusedError as error:
                with pytest.raises(RowRefusedError) as again:
                    plain._render_limited("default", ROWS, None, generation)
                assert str(again.value) == str(error)
            else:
                assert plain._render_limited("default", ROWS, None, generation) == expected


def test_many_turns_are_rendered_within_limits_too(monkeypatch):
    monkeypatch.setattr(limited_rendering, "SECONDS", 30.0)
    template = ChatTemplate({}, {})
    many = ROWS * 60
    monkeypatch.setattr(template, "_compiled", {"default": None})
    assert template.render(many).count("### User:") == len(many) // 2


def test_what_does_not_compile_is_said_and_a_template_can_be_pickled():
    with pytest.raises(BackboneError, match="does not compile"):
        ChatTemplate({"default": "{% if %}"}, {})
    with pytest.raises(BackboneError, match="do not compile"):
        ChatTemplate({"default": "{{ 'a' * 2 }}{{ x | nosuchfilter }}"}, {})
    renderer = limited_rendering.LimitedRenderer({"default": "{{ 'ab' * 2 }}"}, {})
    assert pickle.loads(pickle.dumps(renderer)).render("default", {}) == "abab"
