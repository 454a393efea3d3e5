"""Presets: names for whole lists of features, usable wherever features are named.

`fast` is everything that one checkpoint gives without training: one forward and one backward over
each row, and a second forward over the answers alone for IFD. `paper` is what each paper says:
warm-up checkpoints, the ensemble, the encoder.
"""

from __future__ import annotations

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
    representation: `fast,less:dims=8192` has one `less`.
    """
    entries = [entry.strip() for entry in features.split(",") if entry.strip()]
    said = {_name(entry) for entry in entries if entry not in PRESETS}
    found: dict[str, None] = {}
    for entry in entries:
        if entry in PRESETS:
            found |= dict.fromkeys(each for each in PRESETS[entry] if _name(each) not in said)
        else:
            found[entry] = None
    return list(found)


def _name(entry: str) -> str:
    return entry.partition(":")[0].strip()
