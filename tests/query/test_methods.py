"""Method names: what is understood, what is refused, and how."""

import pytest

from coresetdb.ingest.representations.registry import get
from coresetdb.query.methods import as_recorded, method_names, parse_method
from coresetdb.schemas.errors import UsageError

KNOWN = {"rds": get("rds"), "rds__0123abcd": get("rds"), "mads": get("mads")}


@pytest.mark.parametrize(
    ("text", "full", "representation", "options"),
    [
        ("rds", "rds:round_robin", "rds", {}),
        ("rds+", "rds:round_robin", "rds", {}),
        ("rds:round_robin", "rds:round_robin", "rds", {}),
        ("rds+:top", "rds:top", "rds", {"by": "mean"}),
        ("rds:top(by=max)", "rds:top(by=max)", "rds", {"by": "max"}),
        (" rds:top( by = mean ) ", "rds:top", "rds", {"by": "mean"}),
        ("rds__0123abcd:top", "rds__0123abcd:top", "rds__0123abcd", {"by": "mean"}),
        ("random", "random", None, {}),
        ("rds:random", "rds:random", "rds", {}),
    ],
)
def test_understood(text, full, representation, options):
    method = parse_method(text, KNOWN)
    assert str(method) == full
    assert (method.representation, dict(method.options)) == (representation, options)
    assert parse_method(str(method), KNOWN) == method


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "representation:selector"),
        ("rds:top(by=max", "representation:selector"),
        ("rds top", "representation:selector"),
        ("tdm", "no representation 'tdm'; methods: "),
        ("rds:knn", "no selector 'knn' (did you mean knn_kde?); methods: "),
        ("rsd", "no representation 'rsd' (did you mean rds?); methods: "),
        ("top", "top compares rows: name a representation, as in rds:top; methods: "),
        ("rds:top(k=3)", "no option 'k'; top has by"),
        ("rds:top(by)", "no option 'by'"),
        ("rds:round_robin(by=max)", "round_robin has none"),
        ("rds:top(by=median)", "choose from mean, max"),
        ("rds:uot(reg=0)", "reg=0: it must be at least 0.0001"),
        ("rds:uot(reg=nan)", "finite"),
        ("rds:deita_filter(threshold=inf)", "finite"),
        ("rds:facility_location(represent=0)", "represent=0: it must be at least 1"),
        ("length_matched(bins=0)", "bins=0: it must be at least 1"),
        ("mads(cap=0)", "cap=0: it must be at least 1"),
    ],
)
def test_refused(text, says):
    with pytest.raises(UsageError) as refusal:
        parse_method(text, KNOWN)
    assert says in str(refusal.value)


def test_a_feature_that_only_other_stores_have_is_understood():
    assert parse_method("rds", {}, elsewhere=("rds",)).representation == "rds"


def test_all_names_can_be_read():
    names = method_names(KNOWN)
    assert {"random", "rds:round_robin", "rds:top"} <= set(names)
    assert [str(parse_method(name, KNOWN)) for name in names] == names


@pytest.mark.parametrize(
    ("text", "parameters", "today"),
    [
        (
            "nait:top",
            {"selector": "top", "options": {"by": "mean"}, "asked": {"score": "dot"}},
            "nait:top(direction=pca,score=dot)",
        ),
        (
            "nait:top(score=zscore)",
            {"selector": "top", "asked": {"activation": "mean", "score": "zscore"}},
            "nait:top(score=zscore,direction=pca)",
        ),
        (
            "nait__0123abcd:round_robin",
            {"selector": "round_robin", "asked": {"direction": "contrast", "score": "centred"}},
            "nait__0123abcd:round_robin",
        ),
        (
            "rds:knn_kde(rest=spread)",
            {"selector": "knn_kde", "options": {"sigma": 0.75, "rest": "spread"}},
            "rds:knn_kde(rest=spread)",
        ),
        (
            "rds:knn_kde(ties=mean)",
            {"selector": "knn_kde", "options": {"sigma": "auto", "ties": "mean"}},
            "rds:knn_kde(ties=mean,sigma=auto)",
        ),
        (
            "rds:knn_kde(sigma=0.4)",
            {"selector": "knn_kde", "options": {"sigma": 0.4}},
            "rds:knn_kde(sigma=0.4)",
        ),
        ("rds:top(by=max)", {"selector": "top", "options": {"by": "max"}}, "rds:top(by=max)"),
        ("random", {"selector": "random", "representation": None}, "random"),
    ],
)
def test_a_recorded_method_keeps_the_defaults_of_its_day(text, parameters, today):
    parameters = {"representation": text.partition(":")[0], **parameters}
    recorded = as_recorded(text, parameters)
    assert recorded == today
    assert as_recorded(recorded, parameters) == recorded
