"""A store whose pool gives some examples of its target away."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from coresetdb.schemas.instruction import Instruction

WORDING = "sums please read the following short story with care and then answer its last question"


def story(seed: int, words: int = 30) -> str:
    """Words that no two stories have thirteen of in a row."""
    draw = np.random.default_rng(seed)
    return " ".join(f"w{number}" for number in draw.integers(0, 400, words))


def example_of(seed: int, head: str = WORDING, answer: str = "") -> Instruction:
    return Instruction.from_turns(
        ("user", f"{head} {story(seed)}"),
        ("assistant", answer or f"answer {story(seed + 5000, 6)}"),
    )


def without(toys, folder, rows, corpora, examples, left):
    """The store that never had some rows."""
    kept = [at for at, row in enumerate(rows) if row.id not in left]
    store = toys.toy_store(folder)
    store.insert("pool", toys.pool_rows([rows[at] for at in kept], [corpora[at] for at in kept]))
    toys.add_target(store, "stories", examples)
    return store


@pytest.fixture(scope="module")
def shared(tmp_path_factory, toys):
    """See `leaky`; one for all tests of a file that leave the store's pool as it is."""
    return build(tmp_path_factory.mktemp("shared"), toys)


@pytest.fixture
def leaky(tmp_path, toys):
    """287 rows of three corpora with five planted ones, a target of four examples, all alike."""
    return build(tmp_path, toys)


def build(folder, toys):
    examples = [example_of(seed) for seed in range(9000, 9004)]
    _, second, third, _ = (example.messages[0].content for example in examples)
    planted = {
        "verbatim": examples[0],
        "re-cased": Instruction.from_turns(
            ("user", second.upper().replace(" ", " , ")), ("assistant", "Nobody knows.")
        ),
        "embedded": Instruction.from_turns(
            ("user", f"sums before it. {third} And after it."), ("assistant", "Nobody knows.")
        ),
        "shared": Instruction.from_turns(
            ("user", f"sums {story(1)} {' '.join(third.split()[-14:])}"), ("assistant", "No")
        ),
        "answer": example_of(
            8001, answer=f"{examples[3].messages[1].content} because {story(9003)}"
        ),
    }
    clean = {
        # Twelve words in a row, a story that only the pool repeats, and the task's own wording.
        "twelve": Instruction.from_turns(
            ("user", f"sums {story(2)} {' '.join(third.split()[-12:])}"), ("assistant", "No")
        ),
        "wording": example_of(8002),
    }
    rows = [example_of(seed, head="sums " + story(seed + 3000, 4)) for seed in range(280)]
    corpora = ["one"] * 140 + ["two"] * 140
    rows += [*clean.values(), *planted.values()]
    corpora += ["one"] * 3 + ["two"] * 2 + ["three"] * 2
    numbers = itertools.count()

    def less(left):
        return without(toys, folder / str(next(numbers)), rows, corpora, examples, set(left))

    return SimpleNamespace(
        store=less(()),
        less=less,
        examples=examples,
        planted={name: each.id for name, each in planted.items()},
        clean={name: each.id for name, each in clean.items()},
        example_of=example_of,
        story=story,
    )
