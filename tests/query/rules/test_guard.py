"""The index over the examples against a reference that compares every pair word by word."""

from hypothesis import example as known_case
from hypothesis import given, settings
from hypothesis import strategies as st

from coresetdb.query.rules.examples import GuardedExample, conversation_words, signs_of_code
from coresetdb.query.rules.guard import (
    LEAST,
    MOST_SIGNS,
    NGRAM,
    SHARE,
    SHORT_NGRAM,
    Guard,
    Leak,
    Suspicion,
)


def turns(*parts):
    return [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant"), parts, strict=False)
    ]


def example(number, question, answer="", of="t"):
    return GuardedExample.from_messages(f"{number:032x}", of, turns(question, answer))


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
    found = Guard(examples, version=1).leak_or_suspicion("f" * 32, row)
    if equal or contained:
        assert isinstance(found, Leak) and found.how == ("equal" if equal else "contains")
    elif shared:
        assert isinstance(found, Suspicion) and not found.parts
        assert {tuple(run.split()) for run in found.alone} == shared
    else:
        assert found is None


def naive_parts(examples, row):
    """Numbers of the examples whose question or answer is given away in runs of eight words."""
    said = runs(conversation_words(row).everything, SHORT_NGRAM)

    def wording(run, of):
        own = [each for each in examples if each.of == of]
        asked = {
            tuple(each.said.question or each.said.whole)
            for each in own
            if run in runs(each.said.whole, SHORT_NGRAM)
        }
        return len(asked) > 1

    found = set()
    for number, each in enumerate(examples):
        for words in (each.said.question, each.said.whole[len(each.said.question) :]):
            own, covered = set(), set()
            for at in range(len(words) - SHORT_NGRAM + 1):
                run = tuple(words[at : at + SHORT_NGRAM])
                if not any(wording(run, of) for of in {other.of for other in examples}):
                    places = range(at, at + SHORT_NGRAM)
                    own.update(places)
                    covered.update(places if run in said else ())
            enough = len(covered) >= NGRAM or len(covered) == len(own)
            if len(words) >= NGRAM and own and enough and len(covered) >= SHARE * len(own):
                found.add(number)
    return found


SOME_WORDS = st.lists(st.sampled_from(["if", "go", "(x)", "7"]), max_size=30)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(SOME_WORDS, SOME_WORDS, st.sampled_from("tu")), min_size=1, max_size=4),
    st.lists(PIECES, max_size=3),
    SOME_WORDS,
)
def test_the_second_version_against_pairs(texts, pieces, filler):
    examples = [
        example(number, " ".join(question), " ".join(answer), of)
        for number, (question, answer, of) in enumerate(texts)
    ]
    said = list(filler)
    for which, start, length in pieces:
        question, answer, _ = texts[which % len(texts)]
        said += ["zz", *(question + answer)[start : start + length]]
    row = turns(" ".join(said), "")
    equal, contained, shared = naive(examples, row)
    guard = Guard(examples)
    found = guard.leak_or_suspicion("f" * 32, row)
    if equal or contained:
        assert isinstance(found, Leak) and found.how == ("equal" if equal else "contains")
        return
    prose = {run for run in shared if any(_reads_as_prose(each, run) for each in examples)}
    parts = naive_parts(examples, row)
    if not prose and not parts:
        assert found is None
        return
    assert isinstance(found, Suspicion)
    assert {tuple(run.split()) for run in found.alone} == prose
    assert {part.example for part in found.parts} == parts
    leaks = list(guard.leaks_of(found, lambda run: True))
    by_run = {each.example for each in leaks if each.how == "13-gram"}
    by_parts = {each.example for each in leaks if each.how == "8-grams"}
    assert len(leaks) == len(by_run) + len(by_parts)
    assert by_parts == {examples[number].id for number in parts} - by_run
    assert list(guard.leaks_of(found, lambda run: False)) == []


def _reads_as_prose(each, run):
    words = each.said.whole
    places = [at for at in range(len(words)) if tuple(words[at : at + NGRAM]) == run]
    slight = sum(word.isdigit() or len(word) == 1 for word in run)
    return any(
        sum(each.signs[at : at + NGRAM - 1]) <= MOST_SIGNS and slight <= NGRAM / 2 for at in places
    )


def test_signs_of_code():
    code = "def f(n):\n    return [0 for i in range(n + 1)]\nself.x = y"
    assert "".join("-x"[sign] for sign in signs_of_code(code)) == "-xxx----xxxxx-"
    prose = "Anna, who sells 3.5 apples (and pears) - well - has $7. Is that all? Yes: all."
    assert sum(signs_of_code(prose)) == 2
    assert signs_of_code("(1 - 2)") == [True, True]
    assert len(signs_of_code("小明有七个苹果")) == 7


LONG = "Anna buys seven red apples and nine green pears for her three hungry brothers today"


def test_what_gave_it_away_is_named():
    guard = Guard([example(1, "Short?", "Yes"), example(2, LONG, "19")])
    assert guard.leak_or_suspicion(f"{1:032x}", []) == Leak(
        f"{1:032x}", "equal", "short yes", f"{1:032x}", "t"
    )
    assert guard.leak_or_suspicion("0" * 32, turns("SHORT", "other answer")).how == "equal"
    assert guard.leak_or_suspicion("0" * 32, turns("Is this short?", "Yes")) is None
    inside = guard.leak_or_suspicion("0" * 32, turns(f"Please solve: {LONG.upper()}!", "It is 19."))
    assert (inside.how, inside.example, inside.of) == ("contains", f"{2:032x}", "t")
    row = turns("Why " + " ".join(LONG.split()[:13]), "So")
    (leak,) = guard.leaks_of(guard.leak_or_suspicion("0" * 32, row), lambda run: True)
    assert (leak.how, leak.words) == ("13-gram", " ".join(LONG.lower().split()[:13]))


def test_an_evaluation_may_hold_the_targets_own_examples():
    """A run is wording when one source has it twice, not when two sources have it once."""
    both = Guard([example(1, LONG, "19"), example(2, LONG, "nineteen", of="test.jsonl")])
    assert both.leak_or_suspicion("0" * 32, turns(LONG, "20")).how == "equal"
    assert both.grams
    twice = Guard([example(1, LONG + " a", "19"), example(2, LONG + " b", "20")])
    assert twice.leak_or_suspicion("0" * 32, turns(LONG, "19")) is None


def test_a_question_with_several_answers_is_no_leak_by_itself():
    joke = "Tell me a good joke about cats and dogs please"
    guard = Guard([example(1, joke, "Miau"), example(2, joke, "Wuff")])
    assert guard.leak_or_suspicion("0" * 32, turns(joke, "Moo")) is None
    assert guard.leak_or_suspicion("0" * 32, turns(joke, "wuff")).how == "equal"


def test_chinese():
    question = "小明有七个苹果他给了妹妹三个然后又买了五个请问他现在一共有几个苹果"
    guard = Guard([example(1, question, "九个")])
    assert (
        guard.leak_or_suspicion("0" * 32, turns("请解题:" + question + "?", "9")).how == "contains"
    )
    shared = guard.leak_or_suspicion("0" * 32, turns(question[:13] + "吗", "9"))
    assert list(shared.alone) == [" ".join(question[:13])]
    assert guard.leak_or_suspicion("0" * 32, turns(question[:12] + "吗", "9")) is None


ANSWER = """def kth_element(arr, n, k):
  for i in range(n):
    for j in range(0, n-i-1):
      if arr[j] > arr[j+1]:
        arr[j], arr[j+1] = arr[j+1], arr[j]
  return arr[k-1]"""


def test_boilerplate_of_code_is_no_leak_and_copied_code_is():
    guard = Guard([example(1, "Find the kth element of an array.", ANSWER), example(2, LONG, "19")])

    def judged(question, answer):
        found = guard.leak_or_suspicion("0" * 32, turns(question, answer))
        if isinstance(found, Suspicion):
            return [leak.how for leak in guard.leaks_of(found, lambda run: True)]
        return [found.how] if found else []

    loops = "def pairs(n):\n  for i in range(n):\n    for j in range(0, n-i-1):\n      print(i, j)"
    first = Guard([example(1, "Find the kth element of an array.", ANSWER)], version=1)
    assert isinstance(first.leak_or_suspicion("0" * 32, turns("Print pairs.", loops)), Suspicion)
    assert judged("Print pairs.", loops) == []
    assert judged("Show me some code.", ANSWER) == ["8-grams"]
    assert judged("Show me.", ANSWER.replace("kth_element", "solve") + "\n# done") == ["8-grams"]
    edited = LONG.replace("Anna", "Emma")
    assert judged(f"{edited} and tomorrow.", "20") == ["13-gram"]
    assert judged("Continue: 1 2 3", "1 2 3 4 5 6 7 8 9 10 11 12 13") == []


def test_numbers_and_letters_in_a_row_are_no_leak():
    listed = (
        "Add up the numbers 1 2 3 4 5 6 7 8 9 10 11 12 13 14 and say what comes out of it, Anna"
    )
    guard = Guard([example(1, listed, "105")])
    row = turns("Sort these", " ".join(map(str, range(1, 15))))
    assert guard.leak_or_suspicion("0" * 32, row) is None


def test_a_question_edited_here_and_there_is_found():
    """No thirteen words in a row are left, but most of the question is."""
    words = [f"word{number}" for number in range(60)]
    guard = Guard([example(1, " ".join(words), "Yes")])
    for at in range(9, 60, 10):
        words[at] = "other"
    found = guard.leak_or_suspicion("0" * 32, turns(" ".join(words), "No"))
    (leak,) = guard.leaks_of(found, lambda run: True)
    assert leak.how == "8-grams" and leak.words == " ".join(words[:9])
    common = " ".join(words[:8])
    assert list(guard.leaks_of(found, lambda run: run != common))
    assert not list(guard.leaks_of(found, lambda run: run == common))
