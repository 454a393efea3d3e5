"""Recipes and artifacts."""

from __future__ import annotations

from coresetdb.schemas.recipe import Recipe

RDS = Recipe("rds", 1, {"layer": -1}, {"model": "toy"}, ("rds", "rds_norm"))
LOSSES = Recipe("losses", 2, columns=("nll",), artifacts={"pca": "ab"})


def test_recipes_come_back_by_column(store):
    for recipe in (RDS, LOSSES, RDS):
        store.put_recipe(recipe)
    assert store.recipes() == {"rds": RDS, "rds_norm": RDS, "nll": LOSSES}
    assert store.dataset("recipes").count_rows() == 2


def test_the_first_artifact_wins(store):
    assert store.artifact("f1", "basis") is None
    assert store.put_artifact("f1", "basis", b"\x00one") == b"\x00one"
    assert store.put_artifact("f1", "basis", b"two") == b"\x00one"
    assert store.put_artifact("f2", "basis", b"two") == b"two"
    assert store.artifact("f1", "basis") == b"\x00one"
