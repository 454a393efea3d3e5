"""What methods were found to pick: figures as docs/results.md has them, for features alike."""

from __future__ import annotations

import re

import pytest

from coresetdb.ingest.models.describe import BackboneConfig, describe
from coresetdb.ingest.representations.registry import get, names
from coresetdb.query import measured as module
from coresetdb.query.measured import CAUSES, PROXY, TABLES, Maker, Table, measured
from coresetdb.query.methods import parse_method

KNOWN = {name: get(name) for name in names()}
NAIT, KDE = "nait(direction=pca,score=dot)", "rds:knn_kde"


def method(text):
    return parse_method(text, KNOWN)


def made(name, weights=PROXY, **options):
    return Maker(weights, "some-model", {**get(name).defaults, **options})


def in_the_document(text, section):
    """The rows of the tables of a section: method -> target -> the first figure of the cell."""
    body = re.search(rf"^## {re.escape(section)}$(.*?)(^## |\Z)", text, re.M | re.S)
    assert body, section
    found, columns = {}, []
    for line in body[1].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| method"):
            columns = cells[1:]
        elif line.startswith("| `") and all(re.fullmatch(r"[\d./]+", each) for each in cells[1:]):
            values = [float(cell.split("/")[0]) for cell in cells[1:]]
            for name in re.findall("`([^`]+)`", cells[0]):
                found[name] = dict(zip(columns, values, strict=True))
    return found


def test_the_tables_are_those_of_the_document(repository):
    text = (repository / "docs" / "results.md").read_text(encoding="utf-8")
    for table in TABLES:
        document = {
            str(method(name)): found
            for name, found in in_the_document(text, table.section).items()
            if not name.startswith("direction=")
        }
        for name, figures in table.found.items():
            found = document[str(method(name))]
            assert dict(zip(table.targets, figures, strict=True)) == found, name


def test_the_page_on_choosing_has_their_means(repository):
    text = (repository / "docs" / "choosing.md").read_text(encoding="utf-8")
    _, _, costs = text.partition("| method | looks at |")
    rows = re.findall(r"^\| `([^`]+)` \|.* \| \[?(\d+), (\d+)[^|]*\|$", costs, re.M)
    assert len(rows) == len(re.findall(r"^\| `", costs.split("\n\n")[0], re.M)) > 9
    tables = {
        str(method(name)): figures
        for table in TABLES
        if not table.model.startswith("SmolLM2")  # the page quotes the larger pools
        for name, figures in table.found.items()
    }
    for name, mean, least in rows:
        figures = tables[str(method(name))]
        assert (round(sum(figures) / len(figures)), round(min(figures))) == (int(mean), int(least))


def test_the_proxy_is_the_one_that_was_measured():
    assert describe(BackboneConfig()).identity["weights"] == PROXY, "measure the new one"


def test_causes_are_of_methods_that_find_little():
    for name in CAUSES:
        row = measured(method(name), made(method(name).made_by.name, warmup="none", dims=2048))
        assert row is not None and CAUSES[name] in (row.warning or "")


@pytest.mark.parametrize("name", [NAIT, KDE, "less:top"])
def test_a_method_that_finds_little_has_a_warning(name):
    row = measured(method(name), made(method(name).made_by.name, warmup="none", dims=2048))
    assert row is not None and row.differs is None and row.model == "the built-in proxy"
    assert (row.warning or "").startswith("finds little") and "quarel" in (row.warning or "")


@pytest.mark.parametrize("name", ["rds", "trim", "nait", "less:top(by=max)", "mads", "losses"])
def test_others_have_none(name):
    row = measured(method(name), made(method(name).made_by.name))
    assert row is None or row.warning is None, "good ones, and those that look at no target"


def test_a_model_is_known_by_the_last_part_of_its_name(monkeypatch):
    own = Table("Some section", "SmolLM2-135M", {}, ("gsm8k",), {"rds": (90,), "trim": (20,)})
    monkeypatch.setattr(module, "TABLES", (*TABLES, own))
    module._listed.cache_clear()
    for name in ("HuggingFaceTB/SmolLM2-135M", "/models/smollm2-135m", "SmolLM2-135M"):
        row = measured(method("trim"), Maker("0" * 32, name, get("trim").defaults))
        assert row is not None and row.differs is None and row.model == "SmolLM2-135M"
        assert row.warning == "finds little; per cent right of the first 100: gsm8k 20 (rds 90)"
    row = measured(method("trim"), Maker("0" * 32, "SmolLM2-360M", {}))
    assert row is not None and row.differs == "with SmolLM2-360M"
    assert measured(method("trim"), made("trim")).model == "the built-in proxy"
    monkeypatch.undo()
    module._listed.cache_clear()


def test_other_features_are_not_measured():
    assert measured(method("trim:round_robin"), made("trim")) is None
    for maker, differs in (
        (made("rds", weights="0" * 32), "with some-model"),
        (made("rds"), None),
        (Maker("", "some-model"), "with some-model"),
    ):
        row = measured(method("rds"), maker)
        assert row is not None and row.differs == differs
    row = measured(method("less"), made("less", warmup="lora", dims=2048))
    assert row is not None and row.differs == "with warmup=lora"
    second = parse_method("less__0a1b2c3d", {"less__0a1b2c3d": get("less")})
    row = measured(second, made("less", warmup="none", dims=2048))
    assert row is not None and row.differs is None, "a second recipe is measured like the first"
    row = measured(method("bm25"), Maker())
    assert row is not None and row.differs is None and row.model == "", "no model is needed"
