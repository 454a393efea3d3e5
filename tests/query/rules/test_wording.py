"""How common runs of words are, counted in one pass, against a count row by row."""

import pytest

from coresetdb.query.rules.examples import conversation_words, ngrams
from coresetdb.query.rules.leakage import counts_of, wording_above
from coresetdb.schemas.instruction import Instruction, Message

TEXTS = [
    "Please read the story: one two three four",
    "PLEASE, read the STORY one-two-three four!",
    "please read the story one two three",
    "\uff30\uff4c\uff45\uff41\uff53\uff45 read the story, one two three four — again",
    "Die Straße ist lang und gut",
    "DIE STRASSE IST LANG UND GUT",
    "die strasse ist lang und gut, ja",
    "小明有七个苹果他给了妹妹三个",
    "小明,有七个苹果!他给了妹妹三个",
    "nothing of the kind",
    "éclair read the story one two three four",
]
RUNS = [
    ("please read the story one two three four", 8),
    ("read the story one two three four", 7),
    ("die strasse ist lang und gut", 6),
    ("strasse strasse", 2),
    ("小 明 有 七 个 苹 果 他", 8),
    ("never said by anybody", 4),
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory, toys):
    store = toys.toy_store(tmp_path_factory.mktemp("wording") / "store")
    rows = [Instruction.from_turns(("user", each), ("assistant", "Yes")) for each in TEXTS]
    called = Message("assistant", "", tool_calls='[{"name":"read the story one two three four"}]')
    split = [("user", "Please read the story"), ("assistant", "one two"), ("user", "three four")]
    rows += [Instruction((Message("user", "Do"), called)), Instruction.from_turns(*split)]
    store.insert("pool", toys.pool_rows(rows, ["all"] * len(rows)))
    return store.dataset("pool")


@pytest.mark.parametrize("together", [True, False])
def test_against_a_count_row_by_row(pool, together):
    rows = [conversation_words(row["messages"]).everything for row in pool.to_table().to_pylist()]
    for length in sorted({length for _, length in RUNS}):
        runs = [run for run, own in RUNS if own == length]
        expected = {run: sum(run in ngrams(row, length) for row in rows) for run in runs}
        asked = [runs] if together else [[run] for run in runs]
        found = {run: n for each in asked for run, n in counts_of(pool, each).items()}
        assert found == expected
    assert counts_of(pool, ["read the story one two three four"]).popitem()[1] == 6
    assert counts_of(pool, ["die strasse ist lang und gut"]).popitem()[1] == 3


def test_from_how_many_rows_on():
    assert [wording_above(rows) for rows in (5, 10_000, 52_000, 1_000_000)] == [10, 10, 52, 1000]
