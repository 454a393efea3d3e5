"""What a removal means for coresets, replays, exports, scores and indices."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

import pyarrow as pa
import pytest
from helpers.files import write_jsonl

from coresetdb.ingest.jobs.commit import Commit
from coresetdb.query import selection
from coresetdb.query.compare import compare
from coresetdb.query.coresets import load_coreset, remove_coreset
from coresetdb.query.explaining.explain import explain
from coresetdb.query.export import export
from coresetdb.query.indexing import index_feature
from coresetdb.query.removal import Rows, purge, read_ids, remove, restore
from coresetdb.query.replay import replay
from coresetdb.query.result_rows import conversations
from coresetdb.query.rules.rules import rules_for
from coresetdb.query.score import score
from coresetdb.query.scores import load_scores
from coresetdb.query.selection import select
from coresetdb.query.targets import remove_target
from coresetdb.schemas.errors import InputError, NoSuchFileError, QueryError, UsageError
from coresetdb.schemas.instruction import Reject
from coresetdb.schemas.recipe import Recipe
from coresetdb.store import catalog, features, removal
from coresetdb.store import purge as purge_module
from coresetdb.store.corpora import rename_corpus
from coresetdb.store.indices import indices_of
from coresetdb.store.integrity.verify import verify
from coresetdb.store.maintenance import clean, compact_and_clean
from coresetdb.store.purge import settle_if_killed
from coresetdb.store.removal import summary
from coresetdb.store.store import Store


def later_rows(store, toys) -> None:
    """Rows that would be chosen for both targets."""
    more = [
        toys.question(topic, number) for topic in ("sums", "code") for number in range(900, 940)
    ]
    store.insert("pool", toys.pool_rows(more, ["late"] * len(more)))


def three_of(coreset) -> list[str]:
    return [coreset.ids[rank] for rank in (0, 3, 20)]


def test_rows_are_named_by_filter_corpus_or_ids(store):
    done = remove(store, Rows(where="corpus = 'poems' AND response_tokens > 3"), "long")
    assert done.corpora == {"poems": store.dataset("removed").count_rows()}
    left = store.dataset("pool").count_rows(filter="corpus = 'poems' AND response_tokens > 3")
    assert left == 0 < store.dataset("pool").count_rows(filter="corpus = 'poems'")
    assert remove(store, Rows(corpus="blank")).rows == 6
    some = store.dataset("pool").to_table(columns=["id"], limit=2)["id"].to_pylist()
    done = remove(store, Rows(ids=[*some, "0" * 32]))
    assert done.rows == 2 and done.unknown == ("0" * 32,)
    again = restore(store, Rows(where="why = 'long'"))
    assert set(again.corpora) == {"poems"}
    assert restore(store, Rows(corpus="blank")).rows == 6
    done = restore(store, Rows(ids=some))
    assert done.rows == 2 and not done.waiting
    assert store.dataset("removed").count_rows() == 0


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (Rows(), "exactly one of"),
        (Rows(where="true", corpus="sums"), "exactly one of"),
        (Rows(corpus="poem"), "corpora: blank, code, facts, poems, sums"),
        (Rows(where="tokens > 10000"), "no row of the pool"),
        (Rows(ids=["0" * 32]), "none of the given ids"),
    ],
)
def test_what_names_no_rows_is_an_error(store, rows, said):
    with pytest.raises(UsageError, match=said):
        remove(store, rows)
    assert store.dataset("removed").count_rows() == 0


def test_there_must_be_something_to_restore_or_purge(store):
    with pytest.raises(UsageError, match="nothing to restore"):
        restore(store, Rows(corpus="sums"))
    with pytest.raises(UsageError, match="no removed rows to purge"):
        purge(store)
    remove(store, Rows(corpus="blank"))
    with pytest.raises(UsageError, match="corpora with removed rows: blank"):
        restore(store, Rows(corpus="sums"))
    with pytest.raises(UsageError, match="--purge"):
        purge(store, Rows(ids=["0" * 32]))
    with pytest.raises(QueryError, match="The columns of removed are: id, corpus, why"):
        restore(store, Rows(where="colour = 'red'"))


def test_rows_removed_before_are_purged_by_naming_them_again(store):
    remove(store, Rows(corpus="blank"), "first")
    done = remove(store, Rows(corpus="blank"), purge=True)
    assert done.rows == 6 and done.purged is not None
    (group,) = summary(store)
    assert group["purged"] == 6 and group["why"] == "first"
    with pytest.raises(UsageError, match="no row of corpus 'blank'"):
        remove(store, Rows(corpus="blank"), purge=True)


def test_a_dry_run_changes_nothing(store):
    before = store.version()
    done = remove(store, Rows(corpus="sums"), purge=True, dry_run=True)
    assert done.planned and done.rows == 60 and "would be purged" in str(done)
    assert store.version() == before and store.dataset("removed").count_rows() == 0


def test_a_coreset_says_which_of_its_rows_were_removed(store, tmp_path):
    made = select(store, ["arithmetic", "python"], budget="40", seed=3)
    before = load_coreset(store, made.name)
    gone = three_of(made)
    done = remove(store, Rows(ids=gone), "a slip")
    assert done.coresets == {made.name: 3}
    opened = load_coreset(store, made.name)
    assert opened.ids == made.ids and len(opened) == 40 and set(opened.removed) == set(gone)
    assert "3 rows were removed from the pool since (a slip)" in repr(opened)
    assert opened.to_arrow(text=True).num_rows == 37 == len(list(opened))
    exported = export(store, made.name, str(tmp_path / "rows.jsonl"))
    assert exported.rows == 37 and exported.removed == 3
    with open(tmp_path / "rows.jsonl.manifest.json") as file:
        manifest = json.load(file)
    assert sorted(manifest["export"]["removed"]) == sorted(gone)
    assert not set(gone) & set(manifest["ids"]) and len(manifest["ids"]) == 37
    again = replay(store, made.name)
    assert again.same and "ranks 1 " in " ".join(again.notes)
    assert explain(store, made.name, 1).messages
    restore(store, Rows(ids=gone))
    assert load_coreset(store, made.name).to_arrow().num_rows == 40
    assert load_coreset(store, made.name).notes == before.notes


@pytest.mark.parametrize(
    ("method", "budget"),
    [("rds", "40"), ("rds:top(by=max)", "15%"), ("random", "40"), ("rds:round_robin", "90-tokens")],
)
def test_a_coreset_that_lost_nothing_is_replayed_to_the_same_ids_after_a_purge(
    store, toys, method, budget
):
    """Its version of the pool held the rows: it answers from a later one, less later rows."""
    made = select(store, ["arithmetic"], method=method, budget=budget, seed=3)
    others = store.dataset("pool").to_table(columns=["id"], filter="corpus = 'poems'")["id"]
    unseen = [row for row in others.to_pylist() if row not in made.ids]
    later_rows(store, toys)
    remove(store, Rows(ids=unseen[:5]), purge=True)
    again = replay(store, made.name)
    opened = load_coreset(store, made.name)
    assert opened.pool_version == store.version() and not opened.removed
    assert sum(share.pool for share in opened.mix) == 246 - 5
    if method == "random" or budget == "15%":  # the draw, or the budget, depends on the pool's size
        assert len(set(again.ids) & set(made.ids)) > 0.9 * len(made)
    else:
        assert again.same and again.ids == made.ids


def test_a_purge_is_told_by_replay_export_explain_and_compare(store, toys, tmp_path):
    made = select(store, ["arithmetic"], method="rds:top", budget="40")
    other = select(store, ["arithmetic"], method="random", budget="40")
    gone = three_of(made)
    later_rows(store, toys)
    done = remove(store, Rows(ids=gone), "asked to", purge=True)
    assert done.coresets[made.name] == 3 and made.name in done.purged.moved
    again = replay(store, made.name)
    assert again.same and again.purged == tuple(gone)  # the others keep their order
    assert "3 ids purged; the other 37 ids are the same" in again.outcome
    assert export(store, made.name, str(tmp_path / "rows.jsonl")).rows == 37
    with pytest.raises(UsageError, match=r"was purged from the pool on .* \(asked to\)"):
        explain(store, made.name, 1)
    assert explain(store, made.name, 5).messages
    assert compare(store, made.name, other.name).first.rows == 40
    with pytest.raises(UsageError, match="every row"):
        remove(store, Rows(ids=[row for row in made.ids if row not in gone]), purge=True)
        export(store, made.name, str(tmp_path / "none.jsonl"))
    assert verify(store.uri, full=True).ok


def test_a_coreset_still_opens_once_the_tombstones_of_its_purged_rows_are_lifted(store):
    made = select(store, ["arithmetic"], budget="40")
    gone = three_of(made)
    remove(store, Rows(ids=gone), purge=True)
    assert restore(store, Rows(ids=gone)).absent == 3
    assert set(load_coreset(store, made.name).removed) == set(gone)


def test_rows_removed_before_a_purge_of_others_and_restored_after_it_are_in_the_coreset_again(
    store,
):
    made = select(store, ["arithmetic"], budget="40")
    first, second, *_ = made.ids
    remove(store, Rows(ids=[first]))
    remove(store, Rows(ids=[second]), purge=True)
    restore(store, Rows(ids=[first]))
    opened = load_coreset(store, made.name)
    assert set(opened.removed) == {second}
    (text,) = conversations(store, [first], opened.pool_version)
    assert text["messages"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("cause", ["purge", "target", "compact"])
def test_a_selection_whose_pool_is_purged_meanwhile_says_so_and_leaves_nothing(
    store, monkeypatch, toys, cause
):
    def meanwhile(snapshot, coreset):
        if cause == "purge":
            others = store.dataset("pool").to_table(columns=["id"], filter="corpus = 'poems'")
            remove(store, Rows(ids=others["id"].to_pylist()[:5]), purge=True)
        elif cause == "target":
            toys.add_target(store, "later", [toys.question("sums", 3000)])
            clean(store, 0.0)
        else:
            later_rows(store, toys)
            compact_and_clean(store, 0)
        return record(snapshot, coreset)

    record = selection.record
    table = "targets" if cause == "target" else "pool"
    with monkeypatch.context() as patch:
        patch.setattr(selection, "record", meanwhile)
        with pytest.raises(UsageError, match=f"table {table} was .* meanwhile.* select again"):
            select(store, ["arithmetic"], budget="5", name="mine")
    assert store.dataset("coreset_rows").count_rows() == 0
    assert not store.tags() and not store.tags("targets")
    assert len(select(store, ["arithmetic"], budget="5", name="mine")) == 5


@pytest.mark.parametrize("table", ["removed_rows", "removed"])
def test_a_killed_restore_gives_a_moved_coreset_its_rows_back(store, tmp_path, monkeypatch, table):
    """The coreset follows the restored rows whether the process is killed before or after."""
    made = select(store, ["arithmetic"], budget="20")
    first, second, *_ = made.ids
    remove(store, Rows(ids=[first]))
    remove(store, Rows(ids=[second]), purge=True)

    def killed(store, name, ids):
        if name == table:
            raise Killed
        return delete_rows(store, name, ids)

    delete_rows = removal.delete_rows
    with monkeypatch.context() as patch:
        patch.setattr(removal, "delete_rows", killed)
        with pytest.raises(Killed):
            restore(store, Rows(ids=[first]))
    again = Store.open(store.uri)
    settle_if_killed(again)
    assert export(again, made.name, str(tmp_path / "rows.jsonl")).rows == 19
    assert set(load_coreset(again, made.name).removed) == {second}


@pytest.mark.parametrize("step", ["before", "between"])
def test_a_coreset_follows_restored_rows_even_if_that_is_killed(store, tmp_path, monkeypatch, step):
    made = select(store, ["arithmetic"], budget="20")
    first, second, *_ = made.ids
    remove(store, Rows(ids=[first]))
    remove(store, Rows(ids=[second]), purge=True)

    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patch:
        if step == "before":
            patch.setattr(purge_module, "follow", killed)
        else:
            patch.setattr(Store, "move_tag", killed)
        with pytest.raises(Killed):
            restore(store, Rows(ids=[first]))
    again = Store.open(store.uri)
    settle_if_killed(again)
    assert export(again, made.name, str(tmp_path / "rows.jsonl")).rows == 19
    assert again.tags()[f"coreset-{made.name}-pool"] == load_coreset(again, made.name).pool_version


def test_scores_leave_removed_rows_out(store):
    scores = score(store, "arithmetic", ["rds"])
    gone = scores.table()["id"].to_pylist()[:2]
    remove(store, Rows(ids=gone))
    left = load_scores(store, "arithmetic")
    assert not set(gone) & set(left.table()["id"].to_pylist())
    assert left.to_arrow("tokens", text=True).num_rows == scores.table().num_rows == 238
    remove(store, Rows(ids=left.table()["id"].to_pylist()[:1]), purge=True)
    assert load_scores(store, "arithmetic").to_arrow(text=True).num_rows == 237


def test_an_index_is_made_anew_without_the_purged_rows(store):
    index_feature(store, "rds")
    gone = store.dataset("pool").to_table(columns=["id"], limit=20)["id"].to_pylist()
    done = remove(store, Rows(ids=gone), purge=True)
    assert done.reindexed == ("rds",)
    index = indices_of(store.dataset("pool"))["rds"]
    assert index.rows == 226 and index.outside == 0
    found = select(store, ["arithmetic"], budget="5", approximate=True)
    assert len(found) == 5 and not set(gone) & set(found.ids)
    assert verify(store.uri, full=True).ok


def test_removed_rows_are_found_by_no_index(store):
    index_feature(store, "rds")
    before = select(store, ["arithmetic"], budget="5", approximate=True)
    remove(store, Rows(ids=before.ids))
    after = select(store, ["arithmetic"], budget="5", approximate=True)
    assert len(after) == 5 and not set(before.ids) & set(after.ids)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ids.txt", "{0}\n\n{1}\n{0}\n"),
        ("rows.jsonl", '{{"rank": 1, "id": "{0}"}}\n{{"id": "{1}"}}\n'),
        ("rows.csv", "score,id\n0.5,{0}\n0.1,{1}\n"),
        ("rows.tsv", "id\tscore\n{0}\t1\n{1}\t2\n"),
        ("one.csv", "id\n{0}\n{1}\n"),
        ("texts.csv", 'text,id\n"' + "long " * 40_000 + '\n\nend",{0}\n\nshort,{1}\n'),
    ],
)
def test_ids_are_read_from_files_of_any_shape(tmp_path, name, text):
    wanted = ["0" * 32, "a" * 32]
    (tmp_path / name).write_text(text.format(*wanted))
    assert read_ids(str(tmp_path / name)) == wanted


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ids.txt", "{0}\n"),
        ("rows.jsonl", '{{"id": "{0}"}}\n'),
        ("rows.csv", "id,score\n {0},1\n"),
    ],
)
def test_ids_may_be_written_in_capitals(tmp_path, name, text):
    (tmp_path / name).write_text(text.format("A" * 32))
    assert read_ids(str(tmp_path / name)) == ["a" * 32]


def test_an_export_is_a_file_of_ids(store, tmp_path):
    made = select(store, ["arithmetic"], budget="5")
    for name in ("rows.jsonl", "rows.parquet"):
        export(store, made.name, str(tmp_path / name))
        assert sorted(read_ids(str(tmp_path / name))) == sorted(made.ids)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no ids"),
        ("what\n", "'what' is no row id"),
        ('{"name": 1}\n', "line 1 is no JSON object with a field id"),
        (f'{{"id": "{"0" * 32}"}}\n\n["{"1" * 32}"]\n', "line 3 is no JSON object"),
        (f'{{"id": "{"0" * 32}"}}\n5\n', "line 2 is no JSON object"),
        (f'{{"id": "{"0" * 32}"}}\n{{"id": \n', "line 2 is no JSON:"),
        ('{"id": 7}\n', "entry 1: 7 is no row id"),
        (f'\nn,text,id\n1,"two\nlines",{"0" * 32}\n2,short\n', "line 5 has 2 cells"),
        (f"id\tn\n{'0' * 32}\t1\n\t2\n", "entry 2: '' is no row id"),
    ],
)
def test_a_file_without_ids_is_an_error(tmp_path, text, said):
    (tmp_path / "file").write_text(text)
    with pytest.raises(InputError, match=said):
        read_ids(str(tmp_path / "file"))
    with pytest.raises(NoSuchFileError):
        read_ids(str(tmp_path / "none"))


def test_a_feature_that_came_meanwhile_is_named_with_the_command_that_completes_it(store):
    ids = store.dataset("pool").to_table(columns=["id"], limit=3)["id"].to_pylist()
    remove(store, Rows(ids=ids))
    recipe = Recipe("toy", 1, {}, {"name": "toy"}, ("toy", "toy_reason"))
    mark = {b"coresetdb:fingerprint": recipe.fingerprint.encode()}
    fields = [pa.field(name, pa.string(), metadata=mark) for name in recipe.columns]
    features.declare(store, recipe, fields)
    done = restore(store, Rows(ids=ids))
    assert done.waiting == {"toy": (3, f"coresetdb featurize {store.typed} toy")}
    assert (
        f"3 rows without toy for now; to complete it: {done.waiting['toy'][1]}" in done.lines()[-1]
    )


def kept_evaluations(store) -> list[str]:
    rows = store.dataset("artifacts").to_table(filter="name = 'evaluation'")
    return [zlib.decompress(data).decode() for data in rows["bytes"].to_pylist()]


@pytest.mark.parametrize("share", [2, 3])
def test_a_purge_takes_its_content_out_of_the_evaluation_files_that_coresets_keep(
    store, tmp_path, share
):
    rows = store.dataset("pool").to_table(columns=["id", "messages"], filter="corpus = 'poems'")
    bench = rows.to_pylist()[:3]
    file = write_jsonl(tmp_path / "bench.jsonl", [{"messages": row["messages"]} for row in bench])
    rules = rules_for(store, evaluation=str(file))
    made = select(store, ["arithmetic"], method="random", budget="5", rules=rules)
    said = [row["messages"][0]["content"] for row in bench]
    assert all(text in kept_evaluations(store)[0] for text in said)
    gone = Rows(ids=[row["id"] for row in bench[:share]])
    plan = remove(store, gone, purge=True, dry_run=True)
    assert plan.evaluations == {"bench.jsonl": share}
    assert f"bench.jsonl: {share} examples of the same content, which would be" in str(plan)
    assert not remove(store, gone, dry_run=True).evaluations, "only a purge forgets them"
    assert all(text in kept_evaluations(store)[0] for text in said)
    done = remove(store, gone, purge=True)
    assert done.evaluations == plan.evaluations
    (left,) = kept_evaluations(store)
    assert [text in left for text in said] == [number >= share for number in range(3)]
    assert done.purged.evaluations == share
    assert f"{share} examples of evaluation files forgotten" in str(done)
    assert f"{share} examples of bench.jsonl had the content" in str(replay(store, made.name))
    assert verify(store.uri, full=True).ok


def test_a_dry_run_of_a_purge_names_the_examples_that_only_coresets_hold(store, toys):
    first, second = toys.question("poems", 0), toys.question("poems", 4)
    toys.add_target(store, "copied", [first, second])
    toys.add_target(store, "alone", [first])
    for target in ("copied", "alone"):
        select(store, [target], budget="20", name=f"for-{target}")
    gone = Rows(ids=[first.id])
    plan = remove(store, gone, purge=True, dry_run=True)
    assert plan.targets == {"alone": 1, "copied": 1} and not plan.held_examples
    remove_target(store, "alone")
    plan = remove(store, gone, purge=True, dry_run=True)
    assert plan.targets == {"copied": 1} and plan.held_examples == {"for-alone": 1}
    assert "coreset for-alone was chosen for 1 example of the same content, which would" in str(
        plan
    )
    done = remove(store, gone, purge=True)
    assert done.held_examples == {"for-alone": 1} and "which were forgotten as well" in str(done)
    plan = remove(store, Rows(ids=[second.id]), purge=True, dry_run=True)
    assert plan.targets == {"copied": 1} and not plan.held_examples


@pytest.mark.parametrize("anew", [False, True])
def test_a_purge_keeps_the_examples_of_other_targets_that_only_coresets_hold(store, toys, anew):
    first, second = toys.question("poems", 0), toys.question("poems", 4)
    toys.add_target(store, "copied", [first, second])
    toys.add_target(store, "alone", [first])
    made = select(store, ["arithmetic"], budget="20", name="other")
    select(store, ["copied"], budget="20", name="half")
    select(store, ["alone"], budget="20", name="none")
    remove_target(store, "arithmetic")
    if anew:
        toys.add_target(store, "arithmetic", [toys.question("code", 3000)])
    remove(store, Rows(ids=[first.id]), purge=True)
    assert "1 example of target copied had the content" in str(replay(store, "half"))
    remove(store, Rows(ids=[second.id]), purge=True)
    again = replay(store, "other")
    assert again.same and again.same_queries and not again.notes and again.ids == made.ids
    for name, target in (("none", "alone"), ("half", "copied")):
        with pytest.raises(UsageError, match=f"every example of its target '{target}'"):
            replay(store, name)
    toys.add_target(store, "alone", [toys.question("code", 3000)])
    with pytest.raises(UsageError, match="every example of its target 'alone'"):
        replay(store, "none")
    assert verify(store.uri, full=True).ok


def test_examples_kept_for_a_coreset_lose_what_is_purged_later(store, toys):
    first, second, third = (toys.question("poems", number) for number in (0, 4, 8))
    toys.add_target(store, "poems", [second, third, toys.question("sums", 5000)])
    toys.add_target(store, "alone", [first])
    made = select(store, ["poems"], budget="20")
    remove_target(store, "poems")
    kept_examples = "name = 'targets'"
    for purged in (first, second):
        remove(store, Rows(ids=[purged.id]), purge=True)
        (data,) = store.dataset("artifacts").to_table(filter=kept_examples)["bytes"].to_pylist()
        assert purged.messages[0].content.encode() not in data
        assert third.messages[0].content.encode() in data
    again = replay(store, made.name)
    assert not again.same_queries and "1 example of target poems had" in str(again)
    remove_coreset(store, made.name)
    remove(store, Rows(ids=[third.id]), purge=True)
    assert store.dataset("artifacts").count_rows(filter=kept_examples) == 0


def test_a_purge_drops_what_targets_amounted_to_once_nothing_has_their_examples(store, toys):
    first, second = toys.question("poems", 0), toys.question("poems", 4)
    lists = {"gone": [first], "copied": [second], "stays": [toys.question("code", 3000)]}
    names = {}
    for target, examples in lists.items():
        toys.add_target(store, target, examples)
        names[target] = catalog.target_artifact_name([each.id for each in examples])
        catalog.put_artifact(store, "f", names[target], target.encode())
    select(store, ["stays"], budget="5", name="holds")
    for target in ("gone", "stays"):
        remove_target(store, target)
    remove(store, Rows(ids=[first.id]), purge=True)
    assert catalog.artifact(store, "f", names["gone"]) is None
    assert catalog.artifact(store, "f", names["copied"]) == b"copied"
    assert catalog.artifact(store, "f", names["stays"]) == b"stays"
    remove_coreset(store, "holds")
    remove(store, Rows(ids=[second.id]), purge=True)
    left = store.dataset("artifacts").to_table(columns=["name"])["name"].to_pylist()
    assert not set(names.values()) & set(left)


def test_an_emptied_excerpt_stays_empty_when_its_file_is_read_under_another_name(store, toys):
    first = toys.question("poems", 0)
    text = first.messages[0].content
    rejects = [
        Reject("poems", "far.jsonl", line, "no answer", excerpt)
        for line, excerpt in ((1, f"so {text} it says"), (2, "of something else"))
    ]
    Commit("r1", rejects=[(reject, 1) for reject in rejects]).write(store)
    remove(store, Rows(ids=[first.id]), purge=True)
    rename_corpus(store, "poems", "verse")
    for corpus in ("verse",) * 2:
        again = [(replace(reject, corpus=corpus), 1) for reject in rejects]
        Commit("r2", rejects=again).write(store)
        rows = store.dataset("rejects").to_table(filter="corpus = 'verse'").sort_by("line")
        assert rows["excerpt"].to_pylist() == [None, "of something else"]
