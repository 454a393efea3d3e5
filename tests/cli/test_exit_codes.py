"""A caller's mistake exits with 2 and one sentence, whichever command it is made with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.files import write_jsonl

import coresetdb
from coresetdb.cli.main import COMMANDS, main

NO_STORE = {
    "plan": ["plan", "nowhere", "a.jsonl"],
    "fit": ["fit", "nowhere", "a.jsonl"],
    "ingest": ["ingest", "nowhere", "a.jsonl"],
    "featurize": ["featurize", "nowhere"],
    "feature": ["feature", "remove", "nowhere", "rds"],
    "backbone": ["backbone", "nowhere"],
    "status": ["status", "nowhere"],
    "verify": ["verify", "nowhere"],
    "compact": ["compact", "nowhere"],
    "index": ["index", "create", "nowhere", "rds"],
    "target": ["target", "list", "nowhere"],
    "methods": ["methods", "nowhere"],
    "select": ["select", "nowhere", "sums"],
    "coreset": ["coreset", "list", "nowhere"],
    "explain": ["explain", "nowhere", "chance", "1"],
    "compare": ["compare", "nowhere", "chance", "chance"],
    "export": ["export", "nowhere", "chance", "--out", "x.jsonl"],
    "score": ["score", "run", "nowhere", "sums"],
    "evaluate": ["evaluate", "nowhere", "sums", "--eval", "examples.jsonl"],
    "quantiles": ["quantiles", "nowhere", "sums", "--eval", "examples.jsonl"],
    "transfer": ["transfer", "nowhere", "sums", "codes"],
    "sql": ["sql", "nowhere", "SELECT 1"],
    "remove": ["remove", "nowhere", "--corpus", "a"],
    "restore": ["restore", "nowhere", "--corpus", "a"],
    "purge": ["purge", "nowhere", "--corpus", "a"],
    "corpus": ["corpus", "list", "nowhere"],
    "annotate": ["annotate", "nowhere", "a.jsonl"],
    "annotation": ["annotation", "list", "nowhere"],
    "vectors": ["vectors", "add", "nowhere", "encoder", "a.jsonl"],
    "dedup": ["dedup", "nowhere"],
    "leaks": ["leaks", "nowhere", "examples.jsonl"],
    "report": ["report", "nowhere", "chance", "--out", "report.html"],
    "explore": ["explore", "nowhere"],
}
MAKE_THEIR_OWN = ("init", "demo", "completion")

MISTAKES = {
    # a file, or a folder, that is not there or in the way
    "ingest pool nowhere.jsonl": "nowhere.jsonl",
    "ingest pool a.jsonl nowhere.jsonl": "nowhere.jsonl",
    "ingest pool nothing-*.jsonl": "nothing-",
    "plan pool nowhere.jsonl": "nowhere.jsonl",
    "fit pool nowhere.jsonl": "nowhere.jsonl",
    "target add pool new nowhere.jsonl": "nowhere.jsonl",
    "select pool --method random --eval nowhere.jsonl": "nowhere.jsonl",
    "export pool chance --out nowhere/x.jsonl": "no folder",
    "init a.jsonl": "a file is in the way",
    "demo a.jsonl": "a.jsonl: cannot be created",
    "init new --backbone ./nowhere": "nowhere",
    # a home that nobody has
    "status ~nobody-at-all/pool": "no store here",
    "select ~nobody-at-all/pool sums": "no store here",
    "ingest pool ~nobody-at-all/a.jsonl": "no such file",
    "init new --backbone ~nobody-at-all/model": "nobody-at-all",
    # a name that nothing bears
    "init new --features nosuch": "nosuch",
    "plan pool b.jsonl --features nosuch": "nosuch",
    "featurize pool nosuch": "nosuch",
    "feature remove pool nosuch": "nosuch",
    "index create pool nosuch": "nosuch",
    "explore pool --feature nosuch": "nosuch",
    "explore pool --edit": "--notebook FILE.py",
    "explore pool --notebook mine.ipynb": "name it .py",
    "index remove pool rds": "rds",
    "select pool nosuch": "nosuch",
    "select pool sums --method nosuch": "nosuch",
    "select pool sums --method rds:nosuch": "nosuch",
    "select pool sums --method rds:top(nosuch=1)": "nosuch",
    "select pool sums --method trim": "trim",
    "select pool sums --exclude nosuch": "nosuch",
    "select pool sums --quota nosuch=3": "nosuch",
    "select pool sums --cap nosuch=3": "nosuch",
    "select pool sums --distinct 0.9 --distinct-by nosuch": "nosuch",
    "select pool sums --approximate": "index",
    "score run pool nosuch": "nosuch",
    "score run pool sums --with nosuch": "nosuch",
    "score remove pool nosuch": "nosuch",
    "evaluate pool nosuch --eval a.jsonl": "nosuch",
    "evaluate pool sums --eval nowhere.jsonl": "nowhere.jsonl",
    "evaluate pool sums --eval a.jsonl --methods nosuch": "nosuch",
    "evaluate pool sums --eval a.jsonl --controls nosuch": "nosuch",
    "evaluate show pool nosuch": "nosuch",
    "evaluate remove pool nosuch": "nosuch",
    "quantiles pool sums --eval a.jsonl --feature rds --bins 1": "at least 2",
    "transfer pool sums": "two or more",
    "target remove pool nosuch": "nosuch",
    "remove pool --corpus nosuch": "nosuch",
    "remove pool --ids nowhere.txt": "nowhere.txt",
    "restore pool --corpus nosuch": "nothing to restore",
    "corpus rename pool nosuch other": "nosuch",
    "annotate pool nowhere.jsonl": "nowhere.jsonl",
    "annotation remove pool nosuch": "nosuch",
    "vectors add pool encoder nowhere.npy": "nowhere.npy",
    "dedup pool --near 0.95 --feature nosuch": "nosuch",
    "leaks pool nowhere.jsonl": "nowhere.jsonl",
    "select pool sums --weights nosuch=1": "nosuch",
    "target copy pool nosuch pool": "nosuch",
    "target copy pool sums pool": "already",
    "target copy pool sums nowhere": "no store here",
    "coreset show pool nosuch": "nosuch",
    "coreset replay pool nosuch": "nosuch",
    "coreset remove pool nosuch": "nosuch",
    "explain pool nosuch 1": "nosuch",
    "explain pool chance 99": "99",
    "compare pool nosuch chance": "nosuch",
    "compare pool chance nosuch": "nosuch",
    "export pool nosuch --out x.jsonl": "nosuch",
    # a value that makes no sense
    "select pool sums --budget 0": "0",
    "select pool sums --budget many": "many",
    "select pool sums --budget 101%": "101",
    "select pool sums --memory much": "much",
    "select pool sums --distinct 7": "7",
    "select pool --method random --format alpaca": "--out",
    "select pool": "target",
    "ingest pool a.jsonl --format nosuch": "nosuch",
    "ingest pool a.jsonl --map nosuch": "nosuch",
    "ingest pool a.jsonl --map user=nosuch,assistant=output": "nosuch",
    "ingest pool c.csv --map user=nosuch,assistant=output": "nosuch",
    "ingest pool a.jsonl --encoding nosuch": "nosuch",
    "init new --dtype nosuch": "nosuch",
    "init new --device nosuch": "nosuch",
    "init new --max-length 0": "0",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """Holds a store `pool` of 12 rows with a target `sums`, and a coreset `chance`."""
    folder = tmp_path_factory.mktemp("mistakes")
    rows = [{"instruction": f"Name colour {n}.", "output": f"It is red {n}."} for n in range(12)]
    for name, some in {"a": rows, "b": rows[9:], "examples": rows[:3]}.items():
        write_jsonl(folder / f"{name}.jsonl", some)
    (folder / "c.csv").write_text("question,output\nWhat is red?,A colour.\n")
    pool = coresetdb.create(str(folder / "pool"), backbone=str(tiny_llama), dtype="float32")
    pool.ingest(str(folder / "a.jsonl"), limit=10)
    pool.add_target("sums", str(folder / "examples.jsonl"))
    pool.select(method="random", budget=3, name="chance")
    return folder


def left(words: list[str], folder: Path, monkeypatch, capsys) -> tuple[object, str]:
    """The exit code, and what stderr says."""
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as exit_:
        main(words)
    return exit_.value.code, capsys.readouterr().err


@pytest.mark.parametrize("command", NO_STORE)
def test_a_store_that_is_not_there(command, folder, monkeypatch, capsys):
    code, said = left(NO_STORE[command], folder, monkeypatch, capsys)
    assert code == 2 and "no store here" in said and "Traceback" not in said
    assert not (folder / "nowhere").exists()


def test_no_command_is_forgotten():
    assert {*NO_STORE, *MAKE_THEIR_OWN} == set(COMMANDS)


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake(line, folder, monkeypatch, capsys):
    code, said = left(line.split(), folder, monkeypatch, capsys)
    assert code == 2, said
    assert MISTAKES[line] in said and "Traceback" not in said
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("selct pool sums", "No such command 'selct'. Did you mean 'select'?"),
        ("target lst pool", "No such command 'lst'. Did you mean 'list'?"),
        ("feature remov pool rds", "No such command 'remov'. Did you mean 'remove'?"),
        ("select pool sums --dry-ru", "No such option '--dry-ru'. Did you mean '--dry-run'?"),
        ("target list pool --jsn", "No such option '--jsn'. Did you mean '--json'?"),
    ],
)
def test_a_close_match_is_suggested(line, said, folder, monkeypatch, capsys):
    code, err = left(line.split(), folder, monkeypatch, capsys)
    assert code == 2 and said in err


@pytest.mark.parametrize("kind", ["target", "coreset", "score", "feature", "index"])
def test_each_kind_is_listed_and_removed_alike(kind, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as exit_:
        main([kind, "list", "pool", "--json"])
    assert not exit_.value.code and isinstance(json.loads(capsys.readouterr().out), list)
    code, said = left([kind, "remove", "pool", "nosuch"], folder, monkeypatch, capsys)
    assert code == 2 and "nosuch" in said


@pytest.mark.parametrize(
    ("command", "method", "said"),
    [
        (["ingest", "pool", "a.jsonl"], "ingest", " To go on, run the same command again."),
        (["fit", "pool", "a.jsonl"], "fit", " To go on, run the same command again."),
        (["status", "pool"], "status", ""),
    ],
)
def test_ctrl_c_ends_a_command_with_a_sentence(command, method, said, folder, monkeypatch, capsys):
    def pressed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(coresetdb.Database, method, pressed)
    code, err = left(command, folder, monkeypatch, capsys)
    assert code == 130 and err.strip() == f"Interrupted.{said}"
