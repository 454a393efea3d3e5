"""The index over the examples against a reference that compares every pair word by word."""

from hypothesis import example as known_case
from hypothesis import given, settings
from hypothesis import strategies as st

from coresetdb.query.rules.examples import GuardedExample, conversation_words
from coresetdb.query.rules.leakage import LEAST, NGRAM, Guard, Leak


def turns(*parts):
    return [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant"), parts, strict=False)
    ]


def example(number, question, answer="", of="t"):
    return GuardedExample(f"{number:032x}", of, conversation_words(turns(question, answer)))


def runs(words, length):
    return {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}


def naive(examples, row):
    """(equal, contained, shared runs), each as plainly as it can be said."""
    said = conversation_words(row)

    def inside(words):
        return len(words) >= LEAST and tuple(words) in runs(said.everything, len(words))

    answers = {}
    for each in examples:
        key = (each.of, tuple(each.said.question))
        answers.setdefault(key, set()).add(tuple(each.said.whole))
    alone = [each for each in examples if len(answers[each.of, tuple(each.said.question)]) == 1]
    equal = any(each.said.whole and each.said.whole == said.whole for each in examples) or any(
        each.said.question and each.said.question == said.question for each in alone
    )
    contained = any(inside(each.said.whole) for each in examples) or any(
        inside(each.said.question) for each in alone
    )
    wording = {
        run
        for run in runs(said.everything, NGRAM)
        for of in {each.of for each in examples}
        if len(
            {
                tuple(each.said.question or each.said.whole)
                for each in examples
                if each.of == of and run in runs(each.said.whole, NGRAM)
            }
        )
        > 1
    }
    shared = {
        run
        for run in runs(said.everything, NGRAM)
        if run not in wording and any(run in runs(each.said.whole, NGRAM) for each in examples)
    }
    return equal, contained, shared


WORDS = st.lists(st.sampled_from("ab"), max_size=22)
PIECES = st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(5, 30))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(WORDS, WORDS, st.sampled_from("tu")), min_size=1, max_size=4),
    st.lists(PIECES, max_size=3),
    WORDS,
    st.booleans(),
)
# An example without a question is no second answer to the question that it repeats.
@known_case([([], ["a", "a"], "t"), (["a", "a"], ["a"], "t")], [], ["a"] * 4, True)
def test_against_pairs(texts, pieces, filler, cut):
    examples = [
        example(number, " ".join(question), " ".join(answer), of)
        for number, (question, answer, of) in enumerate(texts)
    ]
    said = list(filler)
    for which, start, length in pieces:
        said += ["z", *examples[which % len(examples)].said.whole[start : start + length]]
    at = len(said) // 2 if cut else len(said)
    row = turns(" ".join(said[:at]), " ".join(said[at:]))
    equal, contained, shared = naive(examples, row)
    found = Guard(examples).leak_or_runs("f" * 32, row)
    if equal or contained:
        assert isinstance(found, Leak) and found.how == ("equal" if equal else "contains")
    elif shared:
        assert isinstance(found, list) and {tuple(run.split()) for run in found} == shared
    else:
        assert found is None


LONG = "Anna buys seven red apples and nine green pears for her three hungry brothers today"


def test_what_gave_it_away_is_named():
    guard = Guard([example(1, "Short?", "Yes"), example(2, LONG, "19")])
    assert guard.leak_or_runs(f"{1:032x}", []) == Leak(
        f"{1:032x}", "equal", "short yes", f"{1:032x}", "t"
    )
    assert guard.leak_or_runs("0" * 32, turns("SHORT", "other answer")).how == "equal"
    assert guard.leak_or_runs("0" * 32, turns("Is this short?", "Yes")) is None
    inside = guard.leak_or_runs("0" * 32, turns(f"Please solve: {LONG.upper()}!", "It is 19."))
    assert (inside.how, inside.example, inside.of) == ("contains", f"{2:032x}", "t")
    (run,) = guard.leak_or_runs("0" * 32, turns("Why " + " ".join(LONG.split()[:13]), "So"))
    leak = guard.leak_of_run("0" * 32, run)
    assert (leak.how, leak.words) == ("13-gram", " ".join(LONG.lower().split()[:13]))


def test_an_evaluation_may_hold_the_targets_own_examples():
    """A run is wording when one source has it twice, not when two sources have it once."""
    both = Guard([example(1, LONG, "19"), example(2, LONG, "nineteen", of="test.jsonl")])
    assert both.leak_or_runs("0" * 32, turns(LONG, "20")).how == "equal"
    assert both.grams
    twice = Guard([example(1, LONG + " a", "19"), example(2, LONG + " b", "20")])
    assert twice.leak_or_runs("0" * 32, turns(LONG, "19")) is None


def test_a_question_with_several_answers_is_no_leak_by_itself():
    joke = "Tell me a good joke about cats and dogs please"
    guard = Guard([example(1, joke, "Miau"), example(2, joke, "Wuff")])
    assert guard.leak_or_runs("0" * 32, turns(joke, "Moo")) is None
    assert guard.leak_or_runs("0" * 32, turns(joke, "wuff")).how == "equal"


def test_chinese():
    question = "小明有七个苹果他给了妹妹三个然后又买了五个请问他现在一共有几个苹果"
    guard = Guard([example(1, question, "九个")])
    assert guard.leak_or_runs("0" * 32, turns("请解题:" + question + "?", "9")).how == "contains"
    assert guard.leak_or_runs("0" * 32, turns(question[:13] + "吗", "9")) == [
        " ".join(question[:13])
    ]
    assert guard.leak_or_runs("0" * 32, turns(question[:12] + "吗", "9")) is None
