"""The corpus that a file belongs to, named for its data set.

| file | corpus |
|---|---|
| `pools/alpaca.json.gz` | `alpaca` |
| `safe_chat/data/train-00000-of-00001.parquet` | `safe_chat` |
| `safe_chat/data/test-00000-of-00001.parquet` | `safe_chat/test` |
| `gsm8k/socratic/train.jsonl`, below a dataset card | `gsm8k/socratic` |
| `saved/train`, a folder of a saved `DatasetDict` | `saved` |
| `hf://datasets/tatsu-lab/alpaca/data/train-00000-of-00001.parquet` | `alpaca` |

A name that only says which part of a set a file is (a shard, a split, `data`, `default`) is no name
of a set: the folders above it are asked instead. The split follows the name unless it is `train`,
so that the rows of a test set can be told from those to train on.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence

from ...schemas.environment import home_folder
from .folders import NAMES, without_packing
from .in_memory import is_in_memory
from .locations import STDIN

SPLIT = re.compile(
    r"(train|training|test|testing|validation|valid|val|dev|eval|evaluation)\d*"
    r"([-_.](sft|gen|prefs|rl|rm|dpo|full|small|clean|raw|\d+))*",
    re.IGNORECASE,
)
TRAIN = re.compile(r"(train|training)([-_.]?\d+)?", re.IGNORECASE)
SHARD = re.compile(r"[-_.]\d+[-_]of[-_]\d+([-_.][0-9a-f]{8,})?$", re.IGNORECASE)
"""The end of a shard's name: `-00000-of-00001`, with or without a hash."""

NAMELESS = re.compile(
    r"(data|datasets?|default|main|all|full|files?|raw|parquet|json|jsonl|csv|arrow|splits?|parts?|"
    r"shards?|chunks?|snapshots|downloads?|tmp|temp|home|mnt|workspace|content|root)?"
    r"([-_.]r)?([-_.]?\d+([-_.]\d+)*)?([-_.][0-9a-f-]{8,})?([-_.]c\d+)?(\.snappy)?"
    r"|[0-9a-f]{16,}",
    re.IGNORECASE,
)
"""Names of files and folders that say nothing about their data set; versions and hashes too."""

HUB_CACHE = re.compile(r"datasets--(?:(.+)--)?(.+)")  # datasets--owner--name
DATASETS_CACHE = re.compile(r"(.+?)___(.+)")  # owner___name
ROOT_LEVELS = 4
CARD_START = b"---"


Place = tuple[str, ...]
"""The folders above what a corpus is named for."""


def corpus_of(file: str) -> str:
    """The name of the corpus of a file, a table's folder, standard input or data in memory."""
    return _named(file)[1]


def corpora_of(files: Sequence[str]) -> dict[str, str]:
    """The corpora of files that are read together; sets of one name get that of a folder above.

    `a/chat/train.jsonl` and `b/chat/train.jsonl` are the corpora `a/chat` and `b/chat`.
    """
    named = {file: _named(file) for file in files}
    places: dict[str, set[Place]] = {}
    for place, name in named.values():
        places.setdefault(name, set()).add(place)
    return {file: _told_apart(name, place, places[name]) for file, (place, name) in named.items()}


def _told_apart(name: str, place: Place, places: set[Place]) -> str:
    """A name behind as many folders as tell it from others of that name; none for the only one."""
    depth = 0
    while len({_last(other, depth) for other in places}) < len(places):
        depth += 1
    return "/".join([*_last(place, depth), name])


def _last(place: Place, depth: int) -> Place:
    return place[len(place) - min(depth, len(place)) :]


def _named(file: str) -> tuple[Place, str]:
    """The name of a file's corpus, and the folders above what it is named for."""
    if file == STDIN or is_in_memory(file):
        return (), "stdin" if file == STDIN else "memory"
    scheme, _, path = file.rpartition("://")
    parts = [part for part in path.partition("?")[0].split("/") if part]
    *folders, name = parts or [file]
    stem = _stem(name)
    shard = SHARD.search(stem)
    if shard:
        stem = stem[: shard.start()]
    pushed = bool(shard) and bool(folders) and folders[-1] == "data"  # as push_to_hub lays it out
    if not (pushed or _is_nameless(stem) or SPLIT.fullmatch(stem)):
        return tuple(folders), stem
    split = stem if pushed or SPLIT.fullmatch(stem) else ""
    *above, own_split = _without_split(folders)
    split = split or own_split
    place, named = _data_set(above, scheme)
    if not named:
        return tuple(folders), stem or name
    return place, named if not split or TRAIN.fullmatch(split) else f"{named}/{split}"


def _stem(name: str) -> str:
    """A file's name without packing and ending."""
    name = without_packing(name)
    for ending in (*NAMES, ".txt", ".tab", ".lance"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name


def _is_nameless(name: str) -> bool:
    return NAMELESS.fullmatch(name) is not None


def _without_split(folders: list[str]) -> list[str]:
    """The folders without one that is named for a split, and then that split ("" for none)."""
    for depth in range(1, min(len(folders), 2) + 1):
        if SPLIT.fullmatch(folders[-depth]):
            return [*folders[:-depth], *folders[len(folders) - depth + 1 :], folders[-depth]]
        if not _is_nameless(folders[-depth]):
            break
    return [*folders, ""]


def _data_set(folders: list[str], scheme: str) -> tuple[Place, str]:
    """The data set below whose folders a file lies, after those above; "" where none has a name."""
    if scheme == "hf" and len(folders) >= 3 and folders[0] == "datasets":
        return (folders[1],), _joined(folders[2].partition("@")[0], folders[3:])
    for depth, folder in enumerate(folders):
        if cached := HUB_CACHE.fullmatch(folder) or DATASETS_CACHE.fullmatch(folder):
            owner, name = cached.groups()
            return (owner or "",), _joined(name, folders[depth + 1 :])
    stops: set[str] = set()
    if not scheme:
        stops = {str(home_folder()), tempfile.gettempdir()}
        for depth in range(len(folders), max(0, len(folders) - ROOT_LEVELS), -1):
            if _is_root("/" + "/".join(folders[:depth])) and not _is_nameless(folders[depth - 1]):
                return tuple(folders[: depth - 1]), _joined(folders[depth - 1], folders[depth:])
    for depth in range(len(folders), 0, -1):
        if "/" + "/".join(folders[:depth]) in stops:
            break
        if not _is_nameless(folders[depth - 1]):
            return tuple(folders[: depth - 1]), folders[depth - 1]
    return (), ""


def _joined(root: str, below: list[str]) -> str:
    """A repository's name and the folders below it that say which of its sets is meant."""
    return "/".join([root, *(name for name in below if not _is_nameless(name))])


def _is_root(folder: str) -> bool:
    """Whether a folder is a data set with a card of the Hub, or a saved `DatasetDict`."""
    if os.path.isfile(os.path.join(folder, "dataset_dict.json")):
        return True
    try:
        with open(os.path.join(folder, "README.md"), "rb") as card:
            return card.read(len(CARD_START)) == CARD_START
    except OSError:
        return False
