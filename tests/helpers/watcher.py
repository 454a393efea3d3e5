"""A reducer for tests that look at what a pass gives, and make no columns of it."""

from __future__ import annotations

from coresetdb.ingest.passes.reducer import Reducer


class Watcher(Reducer):
    """Makes no columns; a test's own says what it keeps."""

    def columns(self):
        return {}
