"""Under rules every method gives what it gives on the pool less the rows left out."""

import torch

from coresetdb.query.methods import method_names
from coresetdb.query.rules.rules import NONE, rules_for
from coresetdb.query.selection import select
from coresetdb.query.snapshot import Snapshot

torch.set_num_threads(1)

OPTIONS = {"rds:deita_filter": "(score=response_tokens)"}
"""What a method cannot do without on this store."""


def test_the_plain_selection_less_the_rows_left_out(shared):
    store, stores = shared.store, {}
    features = {name: each.representation for name, each in Snapshot(store).features.items()}
    rules = rules_for(store, distinct=0.97, distinct_by="rds")
    for name in method_names(features):
        asked = {"method": name + OPTIONS.get(name, ""), "budget": "60", "seed": 5}
        made = select(store, ["stories"], rules=rules, **asked)
        account = made.parameters["rules"]
        left = frozenset(
            row["id"] for rule in ("leakage", "distinct") for row in account[rule]["rows"]
        )
        if left not in stores:
            stores[left] = shared.less(left)
        assert made.ids == select(stores[left], ["stories"], rules=NONE, **asked).ids, name
        assert not left.intersection(made.ids), name
