"""Targets from files: examples, order, repetitions, refusals, names."""

import pytest
from helpers.files import write_jsonl

from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.query.score import score
from coresetdb.query.selection import select
from coresetdb.query.targets import add_target, list_targets, remove_target
from coresetdb.schemas.errors import InputError, UsageError
from coresetdb.store.scores import score_sets

QUESTIONS = [{"question": f"sums example {n}", "answer": f"{n}"} for n in (3, 1, 2)]


def test_a_target_from_a_file(store, tmp_path, toys):
    file = str(write_jsonl(tmp_path / "new.jsonl", [*QUESTIONS, QUESTIONS[0], ["no", "object"]]))
    added = add_target(store, "new", file, ReadOptions(), toys.ToyFeaturizer)
    assert (added.read, added.target.examples, added.duplicates) == (5, 3, 1)
    assert [(reject.line, reject.file) for reject in added.rejected] == [(5, file)]
    assert added.target.name == "new" and added.target.files == (file,)
    assert "question" in added.decisions[0]
    rows = store.dataset("targets").to_table(filter="target = 'new'").sort_by("position")
    assert [m[0]["content"] for m in rows["messages"].to_pylist()[:3]] == [
        row["question"] for row in QUESTIONS
    ]
    assert rows["rds"].null_count == 0 and rows["file"].to_pylist()[0] == file
    coreset = select(store, ["new"], budget="9")
    assert coreset.mix[0].corpus == "sums" and coreset.mix[0].picked == 9
    assert {each.name: each.coresets for each in list_targets(store)}["new"] == (coreset.name,)


def test_several_files_and_a_folder(store, tmp_path, toys):
    write_jsonl(tmp_path / "a.jsonl", QUESTIONS[:2])
    write_jsonl(tmp_path / "b.jsonl", QUESTIONS[1:])
    files = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    added = add_target(store, "two", files, ReadOptions(), toys.ToyFeaturizer)
    assert (added.target.examples, added.duplicates, len(added.decisions)) == (3, 1, 2)


def test_an_example_without_an_answer_is_kept(store, tmp_path, toys):
    file = write_jsonl(tmp_path / "open.jsonl", [{"prompt": "sums now", "completion": ""}])
    added = add_target(store, "open", file, ReadOptions(), toys.ToyFeaturizer)
    assert added.target.examples == 1 and not added.rejected


def test_examples_that_lack_the_feature_are_counted(store, toys):
    toys.add_target(store, "half", [toys.question("sums", 1), toys.question("blank", 2)])
    (half,) = (each for each in list_targets(store) if each.name == "half")
    assert half.missing == {"rds": 1} and half.examples == 2


def test_refusals(store, tmp_path, toys):
    file = write_jsonl(tmp_path / "q.jsonl", QUESTIONS)
    with pytest.raises(UsageError, match="already") as taken:
        add_target(store, "python", file, ReadOptions(), toys.ToyFeaturizer)
    assert taken.value.exit_code == 2
    for bad in ("", "with space", "a/b", "x" * 65):
        with pytest.raises(UsageError, match="target name"):
            add_target(store, bad, file, ReadOptions(), toys.ToyFeaturizer)
    unusable = write_jsonl(
        tmp_path / "bad.jsonl", [{"messages": [{"role": "martian", "content": "x"}]}]
    )
    with pytest.raises(InputError, match="no usable example"):
        add_target(store, "bad", unusable, ReadOptions(), toys.ToyFeaturizer)
    with pytest.raises((InputError, UsageError)):
        add_target(store, "none", str(tmp_path / "absent.jsonl"), ReadOptions(), toys.ToyFeaturizer)
    assert [each.name for each in list_targets(store)] == ["arithmetic", "python"]


def test_a_removal_that_is_killed_leaves_no_scores_without_their_target(store, monkeypatch):
    score(store, "python", ["rds"], keep=True)
    assert score_sets(store)
    delete = store.delete

    def killed(table, where):
        if table == "targets":
            raise KeyboardInterrupt
        return delete(table, where)

    monkeypatch.setattr(store, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_target(store, "python")
    monkeypatch.undo()
    assert [each.name for each in list_targets(store)] == ["arithmetic", "python"]
    assert score_sets(store) == []
    remove_target(store, "python")


def test_remove(store):
    coreset = select(store, ["python"], budget="5")
    removed = remove_target(store, "python")
    assert removed.examples == 3 and removed.coresets == (coreset.name,)
    assert [each.name for each in list_targets(store)] == ["arithmetic"]
    with pytest.raises(UsageError, match="targets: arithmetic"):
        remove_target(store, "python")
