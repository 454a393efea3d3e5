"""Presets: names for whole lists of features, usable wherever features are named.

`fast` is everything that one checkpoint gives without training: one forward and one backward over
each row, and a second forward over the answers alone for IFD. `paper` is what each paper says:
warm-up checkpoints, the ensemble, the encoder.
"""

from __future__ import annotations

from ..schemas.errors import UsageError

PRESETS = {
    "fast": ("rds", "losses:grad_norm=sketch", "nait", "mads", "trim", "less"),
    "paper": (
        "rds",
        "losses:grad_norm=exact",
        "nait",
        "mads",
        "trim:warmup=lora",
        "less:warmup=lora",
        "gradfiltering",
        "embed",
    ),
}
"""Preset -> its features, each with its options."""


def expanded(features: str) -> list[str]:
    """The entries of a list of features, with presets written out.

    An entry that stands beside a preset takes the place of the preset's own of that
    representation: `fast,less:dims=8192` has one `less`. One with a minus takes it away:
    `paper,-embed`.

    Raises:
        UsageError: what is to be taken away is in no preset named.
    """
    entries = [entry.strip() for entry in features.split(",") if entry.strip()]
    said = {_name(entry).removeprefix("-") for entry in entries if entry not in PRESETS}
    held = {_name(each) for entry in entries for each in PRESETS.get(entry, ())}
    found: dict[str, None] = {}
    for entry in entries:
        if entry in PRESETS:
            found |= dict.fromkeys(each for each in PRESETS[entry] if _name(each) not in said)
        elif not entry.startswith("-"):
            found[entry] = None
        elif entry[1:] not in held:
            raise UsageError(f"{entry}: no preset of {features!r} has {entry[1:]!r} to take away")
    return list(found)


def _name(entry: str) -> str:
    return entry.partition(":")[0].strip()
