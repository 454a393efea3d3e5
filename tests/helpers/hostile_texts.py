"""Texts that somebody wrote to break a page, or that are hard to show."""

from __future__ import annotations

SCRIPT = "</script><script>window.hacked = true</script>"
IMAGE = '"><img src="http://example.com/x.png" onerror="window.hacked = true">'
HUGE = 120_000

HOSTILE = [
    f"sums question {SCRIPT}",
    f"sums question {IMAGE}",
    "sums question with a bell \x07, an escape \x1b[31m and a null-like \x01",
    "sums question \u202egnitirw sdrawkcab\u202c",
    "sums سؤال: كم تفاحة لدى أحمد؟",
    "sums question " + "x" * HUGE,
    "sums {{ 7 * 7 }} {% raw %} ${7*7} <!-- <![CDATA[",
    "sums question &lt;b&gt; &amp;",
]
"""Beginnings of questions that are near the target, so that they are chosen."""
