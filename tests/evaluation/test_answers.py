"""When a written answer is right."""

import pytest

from coresetdb.evaluation.answers import is_right


@pytest.mark.parametrize(
    ("written", "accepted"),
    [
        ("There are 3 + 4 = 7 apples.\n#### 7", ["7"]),
        ("so she pays $1,250.00", ["1250"]),
        ("-3", ["-3"]),
        ("The answer is 40%", ["40 %"]),
        (" Entity. ", ["Entity.", "Other."]),
        ("(B)", ["b"]),
        ("new   york", ["New York"]),
    ],
)
def test_right(written, accepted):
    assert is_right(written, accepted)


@pytest.mark.parametrize(
    ("written", "accepted"),
    [
        ("7 apples, of which 3 are red", ["7"]),
        ("", ["7"]),
        ("none", ["7"]),
        ("New York City", ["New York"]),
        ("", ["C"]),
        ("12.5", ["12"]),
    ],
)
def test_wrong(written, accepted):
    assert not is_right(written, accepted)
