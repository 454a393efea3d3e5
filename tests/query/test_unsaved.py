"""Answers that no coreset keeps: dry runs, and stores that can only be read."""

import pytest

from coresetdb.database import Database
from coresetdb.query.selection import select
from coresetdb.schemas.errors import ReadOnlyStoreError, StoreError, UsageError
from coresetdb.store.commits import committed
from coresetdb.store.place import place_at


def test_a_dry_run_answers_and_writes_nothing(store):
    before = {name: store.dataset(name).version for name in ("coresets", "coreset_rows", "pool")}
    dry = select(store, ["arithmetic"], budget="10", name="tried", dry_run=True)
    assert not dry.saved and "nothing was saved, because this is a dry run" in repr(dry)
    assert {name: store.dataset(name).version for name in before} == before
    assert Database(store).list_coresets() == []
    kept = select(store, ["arithmetic"], budget="10", name="tried")
    assert kept.saved and kept.ids == dry.ids
    assert dry.to_polars(text=True).height == 10
    with pytest.raises(UsageError, match="tried"):
        select(store, ["arithmetic"], budget="10", name="tried", dry_run=True)


@pytest.mark.parametrize(
    "said",
    [
        "LanceError(IO): Permission denied (os error 13) at path",
        "LanceError(IO): Read-only file system (os error 30)",
        "Generic S3 error: AccessDenied",
        "Client error with status 403 Forbidden",
    ],
)
def test_a_store_that_cannot_be_written_to_answers_and_says_so(store, monkeypatch, said):
    def refused(*_):
        def action():
            raise OSError(said)

        committed("writing to coreset_rows", action)

    monkeypatch.setattr(type(store), "append", refused)
    coreset = select(store, ["arithmetic"], budget="5")
    assert not coreset.saved
    assert f"nothing was saved, because {store.uri} cannot be written to" in repr(coreset)
    monkeypatch.undo()
    assert coreset.ids == select(store, ["arithmetic"], budget="5").ids


def test_other_failures_of_writing_stay_errors(store, monkeypatch):
    def full(*_):
        def action():
            raise OSError("No space left on device (os error 28)")

        committed("writing to coreset_rows", action)

    monkeypatch.setattr(type(store), "append", full)
    with pytest.raises(StoreError, match="disk is full") as caught:
        select(store, ["arithmetic"], budget="5")
    assert not isinstance(caught.value, ReadOnlyStoreError)


def test_files_of_a_store_that_cannot_be_written_to(tmp_path):
    place = place_at(tmp_path)
    with pytest.raises(ReadOnlyStoreError, match="cannot be written"), place.reached("written"):
        raise PermissionError(13, "Permission denied")
    with pytest.raises(StoreError) as caught, place.reached("read"):
        raise PermissionError(13, "Permission denied")
    assert not isinstance(caught.value, ReadOnlyStoreError)


@pytest.mark.parametrize("where", ["corpus = 'nowhere'", "1 = 2", "corpus IS NULL"])
def test_a_filter_that_no_row_passes_is_an_error(store, where):
    with pytest.raises(UsageError, match="no row of the pool passes it"):
        select(store, ["arithmetic"], budget="5", where=where)
    assert Database(store).list_coresets() == []


def test_an_excluded_coreset_may_leave_nothing(store):
    database = Database(store)
    database.select(method="random", where="corpus = 'poems'", budget="100%", name="poems")
    with pytest.raises(UsageError, match=r"not in an excluded coreset \(poems\)"):
        database.select(method="random", where="corpus = 'poems'", budget=5, exclude="poems")


def test_long_work_on_a_store_that_may_only_be_read_ends_at_its_beginning(store, monkeypatch):
    database = Database(store)
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).startswith(store.uri))
    monkeypatch.setattr("coresetdb.query.score._score_one", lambda *_: pytest.fail("it scores"))
    with pytest.raises(ReadOnlyStoreError, match=r"cannot be written: Permission denied"):
        database.score("arithmetic", "rds")
    with pytest.raises(ReadOnlyStoreError, match=r"cannot be written: Permission denied"):
        database.add_target("new", [{"question": "1 + 1?", "answer": "It is 2."}])
    assert database.select("arithmetic", budget=3, dry_run=True).ids  # reading goes on
