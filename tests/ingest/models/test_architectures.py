"""docs/architectures.md holds what `init` makes of a tiny model of each architecture."""

from __future__ import annotations

import pytest
import transformers
from helpers.architectures import ARCHITECTURES, PAGE, line_of, page

LINES = {
    line.split(" | ")[0].removeprefix("| "): line
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| type")
}

same_version = pytest.mark.skipif(
    f"\ntransformers {transformers.__version__}." not in PAGE.read_text(encoding="utf-8"),
    reason="the table was made with another version of transformers",
)


@same_version
def test_the_page_has_every_architecture():
    assert list(LINES) == list(ARCHITECTURES)
    assert PAGE.read_text(encoding="utf-8") == page(LINES)


@same_version
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_what_init_says(kind, tmp_path):
    assert line_of(kind, tmp_path) == LINES[kind]
