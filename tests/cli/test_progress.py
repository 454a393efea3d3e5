"""What is shown while work goes on: shares that never run ahead, rates and times of each stage."""

from __future__ import annotations

import pytest

from coresetdb.cli import options
from coresetdb.cli.options import ShownProgress
from coresetdb.schemas.progress import JoinedProgress, Silence


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(options, "time", clock)
    return clock


def lines_of(clock: Clock, capsys, *news) -> list[str]:
    """The lines that are printed, where each of the news comes 20 seconds after the last."""
    shown = ShownProgress()
    for kind, words in news:
        clock.now += 20
        getattr(shown, kind)(**words)
    return capsys.readouterr().err.splitlines()


def ingested(rows: int, tokens: int, share: float) -> tuple[str, dict]:
    words = {"rows": rows, "tokens": tokens, "bytes_read": round(1000 * share), "bytes_total": 1000}
    return "advance", words


def test_rates_and_the_time_left_are_of_the_stage(clock, capsys):
    first, second, third, fourth = lines_of(
        clock,
        capsys,
        ("learn", {"name": "basis", "share": 0.5, "said": "reading"}),
        ("learn", {"name": "basis", "share": 1.0, "said": "reading"}),
        ingested(100, 1000, 0.1),
        ingested(300, 5000, 0.3),
    )
    assert first == "basis: reading, 50 %"
    assert second == "basis: reading, 99 %, finishing"
    assert third == "100 rows, 10 %"
    assert fourth == "300 rows, 200 tokens/s, 30 %, 0:01:10 left"


def test_nothing_is_full_while_it_works_and_no_share_goes_back(clock, capsys):
    said = lines_of(clock, capsys, ingested(9, 9, 0.9), ingested(9, 9, 0.8), ingested(9, 9, 1.0))
    assert [line.split(", ")[1] for line in said] == ["90 %", "90 %", "99 %"]
    bar = ShownProgress()
    bar.advance(rows=1, tokens=1, bytes_read=10, bytes_total=10)
    assert bar.bar.tasks[0].completed < bar.bar.tasks[0].total


def test_old_speed_is_forgotten(clock, capsys):
    """Rows that the pool has already go by quickly; the time left is that of the others."""
    quick = ingested(50_000, 0, 0.5)
    slow = [ingested(50_000 + n, n, 0.5 + n / 1000) for n in range(1, 6)]
    last = lines_of(clock, capsys, ingested(1, 0, 0.001), quick, *slow)[-1]
    assert last.endswith("2:45:00 left")


def test_a_pause_is_no_speed(clock):
    """After Ctrl-Z, or a night's sleep, the time left is again that of the work."""
    shown, left = ShownProgress(), []
    for n in range(1, 7):
        clock.now += 10 if n != 4 else 36_000
        shown.advance(rows=n, tokens=n * 100, bytes_read=n * 10, bytes_total=1000)
        left.append(shown.bar.tasks[0].fields["left"])
    assert left[3:] == ["4 %", "5 %, 0:15:50 left", "6 %, 0:15:40 left"]


def test_lines_become_rare(clock, capsys):
    news = [ingested(n, n, n / 1000) for n in range(1000)]
    assert len(lines_of(clock, capsys, *news)) < 150


def test_an_unknown_total_has_no_share(clock, capsys):
    words = {"rows": 5, "tokens": 0, "bytes_read": 10, "bytes_total": None}
    assert lines_of(clock, capsys, ("advance", words)) == ["5 rows"]


def test_the_share_of_several_fits_is_over_all_of_them():
    seen = []

    class Listener(Silence):
        def learn(self, *, name: str, share: float, said: str) -> None:
            seen.append((name, share, said))

    joined = JoinedProgress(Listener(), 4, "fit")
    joined.begin({"a": 1})
    joined.learn(name="a", share=0.5, said="reading")
    joined.begin({"b and c": 2})
    joined.learn(name="b and c", share=0.5, said="reading")
    joined.begin({"d": 1})
    joined.learn(name="d", share=1.0, said="done")
    assert seen == [
        ("a", 0.125, "fit 1 of 4, reading"),
        ("b and c", 0.5, "fit 2 and 3 of 4, reading"),
        ("d", 1.0, "fit 4 of 4, done"),
    ]
