"""Recipes and artifacts."""

from __future__ import annotations

import threading

from coresetdb.schemas.recipe import Recipe
from coresetdb.store import catalog
from coresetdb.store.store import Store

RDS = Recipe("rds", 1, {"layer": -1}, {"model": "toy"}, ("rds", "rds_norm"))
LOSSES = Recipe("losses", 2, columns=("nll",), artifacts={"pca": "ab"})


def test_recipes_come_back_by_column(store):
    for recipe in (RDS, LOSSES, RDS):
        catalog.put_recipe(store, recipe)
    assert catalog.recipes(store) == {"rds": RDS, "rds_norm": RDS, "nll": LOSSES}
    assert store.dataset("recipes").count_rows() == 2


def test_the_first_artifact_wins(store):
    assert catalog.artifact(store, "f1", "basis") is None
    assert catalog.put_artifact(store, "f1", "basis", b"\x00one") == b"\x00one"
    assert catalog.put_artifact(store, "f1", "basis", b"two") == b"\x00one"
    assert catalog.put_artifact(store, "f2", "basis", b"two") == b"two"
    assert catalog.artifact(store, "f1", "basis") == b"\x00one"


def test_recipes_put_at_the_same_time_all_stay(store):
    recipes = [Recipe(f"r{n}", 1, columns=(f"c{n}",)) for n in range(4)]
    threads = [
        threading.Thread(target=catalog.put_recipe, args=(Store.open(store.uri), recipe))
        for recipe in recipes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(catalog.recipes(store)) == {"c0", "c1", "c2", "c3"}
    names = store.dataset("pool").schema.metadata
    assert all(f"coresetdb:recipe:{recipe.fingerprint}".encode() in names for recipe in recipes)
