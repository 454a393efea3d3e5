"""The list of methods: complete, named, and honest about what a store can answer."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from helpers.files import write_jsonl
from helpers.tiny_models import tiny_folder

from coresetdb.cli.main import commands
from coresetdb.database import Database
from coresetdb.ingest.representations.registry import BUILTIN, added, get, names
from coresetdb.query.measured import PROXY
from coresetdb.query.method_list import list_methods
from coresetdb.query.methods import method_names, parse_method
from coresetdb.schemas.errors import CoresetDBError
from coresetdb.schemas.recipe import Recipe
from coresetdb.selectors.registry import selectors
from coresetdb.store.catalog import put_recipe
from coresetdb.store.store import Store

torch.set_num_threads(1)


def rows(generator, count):
    words = "the sky is blue and two plus three make five while green trees grow".split()
    return [
        {"prompt": f"{n} {' '.join(generator.choice(words, 6))}", "completion": "so"}
        for n in range(count)
    ]


def test_every_method_is_listed_once_under_a_name_that_is_understood():
    known = {name: get(name) for name in names()}
    listed = list_methods()
    fulls = {str(parse_method(method_name, known)) for method_name in method_names(known)}
    assert fulls <= {each.full for each in listed}
    assert len({each.method for each in listed}) == len(listed)
    for each in listed:
        method = parse_method(each.method, known)
        assert str(method) == each.full
        assert (method.needs_target, method.representation) == (each.target, each.feature)
        assert each.ready is None and each.next is None
    named = [each.method for each in listed if each.named]
    assert [each.method for each in listed][: len(named)] == named
    assert {"trim", "gradfiltering", "nait", "mads", "less", "rds", "embed"} <= set(named)
    assert {"random", "bm25", "dsir", "losses", "losses(score=nll)"} <= set(named)
    assert [each.also for each in listed if each.method == "rds"] == ["rds+"]
    first, second, *_ = listed.details().split("\n\n")
    assert (
        "rds, rds+" in first and "rds:top" in second and len(first.splitlines()) == len(named) + 2
    )
    assert listed._repr_html_().startswith("<pre>") and "rds, rds+" in listed._repr_html_()


def test_every_method_says_in_one_line_which_rows_it_takes():
    listed = list_methods()
    printed = str(listed)
    assert max(map(len, printed.splitlines())) <= 80
    for each in listed:
        assert each.meaning and "{" not in each.meaning
        if each.named or (each.feature == "rds" and not each.same_rows):
            assert each.meaning in printed, f"{each.method} needs a shorter meaning"
    by_name = {each.method: each for each in listed}
    assert by_name["less:uot"].meaning == by_name["rds:uot"].meaning
    assert by_name["trim:round_robin"].same_rows == "trim"
    assert by_name["rds:random"].same_rows == "random"
    before, after = printed.split("These look at no target")
    assert "bm25" in before and "mads" not in before and "\n  gradfiltering " in after


def test_targets_with_short_answers_are_named(tmp_path, toys):
    config = {"backbone": {"name": "builtin"}, "features": ""}
    columns = ("less", "less_norm", "less_reason")
    options = {**get("less").defaults, "dims": 2048}
    recipe = Recipe("less", get("less").version, options, {"weights": PROXY}, columns)
    types = (pa.list_(pa.float16(), 8), pa.float32(), pa.string())
    fields = [*toys.rds_fields(), *map(pa.field, columns, types)]
    store = Store.create(str(tmp_path / "store"), config, fields, toys.rds_fields())
    put_recipe(store, recipe)
    short, long = ([toys.question("sums", 7 * n + words) for n in range(3)] for words in (1, 2))
    toys.add_target(store, "numbers", short)
    toys.add_target(store, "sentences", long)
    listed = {each.method: each for each in list_methods(store)}
    warning = listed["less"].warning or ""
    assert warning.startswith("finds little where answers are a word or a number; per cent right")
    assert warning.endswith("; such targets here: numbers") and listed["rds"].warning is None
    assert listed["rds"].found and listed["rds"].section == "What every method finds"


def test_a_representation_and_a_selector_without_a_meaning_are_listed(monkeypatch):
    class Own(type(get("rds"))):
        name = "own"
        sees = ""

    bare = replace(selectors()["top"], name="bare", meaning="")
    monkeypatch.setitem(selectors(), "bare", bare)
    with added(Own()):
        listed = {each.method: each for each in list_methods()}
        assert listed["own"].meaning == "rows with own closest to each of your examples"
        assert listed["own:bare"].meaning == "" and "\n  rds:bare\n" in str(list_methods())


def test_papers_are_named():
    for name in BUILTIN:
        own = name == "flags"  # rules of ours, from no paper
        assert get(name).paper or get(name).terms or own, name
    papers = {list_method.method: list_method.paper for list_method in list_methods()}
    assert papers["rds"] == "Ivison et al. 2025" and papers["dsir"] == "Xie et al. 2023"
    assert papers["rds:top"] == "Ivison et al. 2025; arXiv 2602.14696"


def test_a_store_answers_exactly_what_the_list_says(tmp_path):
    generator = np.random.default_rng(0)
    database = Database.create(
        str(tmp_path / "store"),
        backbone=str(tiny_folder()),
        dtype="float32",
        features="rds,losses,mads,nait",
    )
    assert not any(each.ready for each in database.list_methods())
    assert {each.next for each in database.list_methods()} == {
        f"coresetdb ingest {tmp_path}/store FILE..."
    }
    database.ingest(write_jsonl(tmp_path / "pool.jsonl", rows(generator, 12)))
    without = {method.method: method for method in database.list_methods()}
    assert without["random"].ready and without["losses"].ready and without["mads"].ready
    assert without["rds"].next == f"coresetdb target add {tmp_path}/store NAME FILE"
    database.add_target("two", write_jsonl(tmp_path / "two.jsonl", rows(generator, 2)))
    listed = {each.method: each for each in database.list_methods()}
    assert listed["rds"].ready and listed["rds:top"].ready
    assert "at least 3 examples" in listed["nait"].next, "what the target's facts refuse"
    assert listed["bm25"].next == f"coresetdb featurize {tmp_path}/store lexical"
    assert listed["losses(score=grad_norm)"].next.endswith("losses:grad_norm=sketch")
    for each in listed.values():
        if each.ready:
            assert database.select("two", method=each.method, leakage="off", budget=1).ids
        else:
            with pytest.raises(CoresetDBError):
                database.select("two", method=each.method, leakage="off", budget=1)

    database.featurize("lexical")
    ids = database.store.dataset("pool").to_table(columns=["id"])["id"].to_pylist()
    database.add_vectors("minilm", np.eye(len(ids), dtype=np.float32), rows=ids, model="m")
    listed = {each.method: each for each in database.list_methods()}
    assert listed["dsir"].ready and "minilm vectors closest" in listed["minilm"].meaning
    ran = CliRunner().invoke(commands, ["methods", database.store.uri, "--json"])
    assert json.loads(ran.stdout) == [each.as_dict() for each in database.list_methods()]
    shown = CliRunner().invoke(commands, ["methods", database.store.uri]).stdout
    assert "  rds, rds+ " in shown and "\n- trim " in shown
    assert f"\n  coresetdb featurize {tmp_path}/store trim\n      trim, trim:...\n" in shown
    assert "Not measured with" in shown, "the model is none of those in docs/results.md"
    tables = CliRunner().invoke(commands, ["methods", database.store.uri, "--verbose"]).stdout
    assert "Xie et al. 2023" in tables and f"coresetdb featurize {tmp_path}/store trim" in tables
    bare = CliRunner().invoke(commands, ["methods", "--verbose"]).stdout
    assert "lexical:dsir" in bare and "Xie et al. 2023" in bare and "featurize" not in bare


def test_its_lines_fit_a_narrow_terminal(monkeypatch):
    for columns in (60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = str(list_methods()).splitlines()
        assert max(map(len, lines)) <= min(columns, 80), columns
