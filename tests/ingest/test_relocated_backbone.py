"""A backbone that was moved: the error names the command, which takes the same model alone."""

from __future__ import annotations

import shutil

import pytest
from helpers.files import write_jsonl
from helpers.tiny_models import save_tiny_model

import coresetdb
from coresetdb.cli.main import main
from coresetdb.schemas.errors import FingerprintError, NoSuchModelError


@pytest.fixture
def moved(tmp_path, tiny_llama):
    """A store whose model is no longer where it was, and the folder it is in now."""
    before, after = tmp_path / "before", tmp_path / "somewhere else"
    shutil.copytree(tiny_llama, before)
    database = coresetdb.create(tmp_path / "pool", backbone=before, features="rds")
    file = write_jsonl(
        tmp_path / "rows.jsonl", [{"prompt": f"Say {n}", "completion": str(n)} for n in range(6)]
    )
    database.ingest(str(file), limit=3)
    before.rename(after)
    return coresetdb.connect(tmp_path / "pool"), after, str(file)


def test_the_error_names_the_command(moved):
    database, _, file = moved
    asks = (
        lambda: database.ingest(file),
        lambda: database.add_target("t", file),
        lambda: database.featurize("losses"),
        lambda: database.plan(file),
        database.describe_backbone,
    )
    for ask in asks:
        with pytest.raises(NoSuchModelError, match=r"coresetdb backbone .*/pool FOLDER"):
            ask()
    assert len(database.select(method="random", budget=2)) == 2  # needs no model


def test_the_same_model_is_taken_and_works_on(moved):
    database, after, file = moved
    relocated = database.relocate_backbone(after)
    assert relocated.name == str(after) and relocated.features == ("rds",)
    assert database.ingest(file).total("new") == 3
    assert database.describe_backbone().folder == after
    again = coresetdb.connect(database.store.uri)
    assert again.store.config["backbone"]["name"] == str(after)
    assert again.store.dataset("pool").count_rows("rds IS NOT NULL") == 6


def test_another_model_is_refused_and_nothing_changes(moved, tmp_path):
    database, _, _ = moved
    other = save_tiny_model(tmp_path / "other", "gpt2")
    config = database.store.config["backbone"]
    with pytest.raises(FingerprintError, match=r"is not the backbone .*weights"):
        database.relocate_backbone(other)
    with pytest.raises(NoSuchModelError, match="no such folder"):
        database.relocate_backbone(tmp_path / "nowhere")
    assert coresetdb.connect(database.store.uri).store.config["backbone"] == config


def test_at_the_command_line(moved, capsys):
    database, after, _ = moved

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        return ended.value.code, capsys.readouterr()

    pool = database.store.uri
    code, printed = run("backbone", pool)
    assert code == 2 and f"coresetdb backbone {pool} FOLDER" in printed.err
    code, printed = run("backbone", pool, str(after))
    assert code == 0 and "the same model that made rds" in printed.err
    assert str(after) in printed.out
    assert run("backbone", pool)[0] == 0
