"""What of a folder is data: files by their endings, tables that are folders, and what is neither.

A `.lance` table is one source, and so are the Arrow files that the package `datasets` saved into
one folder. Files that only describe data (`dataset_info.json`, the manifest of an export, ...),
caches, locks, unfinished downloads and hidden names are passed over, and so is what has no known
ending; a file without any ending is read if its first bytes are those of JSON, Parquet or Arrow.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...schemas.plain_text import count_of
from .decoding import ByteStream, HashedFile

NAMES = (
    ".json",
    ".jsonl",
    ".jsonlines",
    ".jl",
    ".ndjson",
    ".csv",
    ".tsv",
    ".parquet",
    ".pq",
    ".arrow",
    ".feather",
    ".ipc",
)
PACKED = (".gz", ".zst", ".zstd", ".xz", ".bz2")
DESCRIPTIONS = (
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "croissant.json",
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
"""Files of `datasets`, LLaMA-Factory, the Hub and models that say what other files hold."""

BESIDE_EXPORTS = (".manifest.json", ".dataset_info.json", ".axolotl.yaml")
"""What `coresetdb export` writes beside a file, appended to its name."""

UNFINISHED = (".tmp", ".temp", ".part", ".partial", ".incomplete", ".crdownload", ".lock", ".crc")
CACHES = re.compile(r"(cache-|tmp).*\.arrow", re.IGNORECASE)
DATASET_INFO = ("features", "splits", "builder_name", "dataset_name", "citation", "description")
DATA = re.compile(rb'(\xef\xbb\xbf)?\s*(\[\s*)*\{\s*"|PAR1|ARROW1|\xff\xff\xff\xff')

DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What a damaged state.json raises."""

DESCRIBES, CACHE, IS_UNFINISHED, HIDDEN = (
    "describes other files",
    "a cache of datasets",
    "unfinished, or a lock",
    "hidden",
)
NO_ENDING = "no known ending (name a file to read it whatever its name)"
LINK = "a link to a folder"
STORE = "a store of coresetdb"
SHOWN_NAMES = 5


@dataclass
class Found:
    """The files that were found, in order, and why others were passed over (path -> reason)."""

    files: dict[str, None] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)


def look_below(folder: str, found: Found) -> None:
    """Add the sources below a folder, by name, to what was found."""
    if folder.rstrip("/").endswith(".lance"):
        found.files[os.path.abspath(folder)] = None
        return
    if is_store_folder(folder):
        found.passed_over[os.path.abspath(folder)] = STORE
        return
    own: set[str] = set()
    if is_datasets_folder(folder):
        try:
            own = {os.path.basename(file) for file in data_files(Path(folder))}
        except DAMAGED:  # said when it is opened
            own = {file.name for file in Path(folder).glob("*.arrow")}
        found.files[os.path.abspath(folder)] = None
    for entry in sorted(Path(folder).iterdir(), key=lambda path: path.name):
        path = os.path.abspath(entry)
        if entry.name in own:
            continue
        if entry.name.startswith("."):
            found.passed_over[path] = HIDDEN
        elif entry.is_dir():
            if entry.is_symlink():
                found.passed_over[path] = LINK
            else:
                look_below(str(entry), found)
        elif (reason := why_passed_over(entry.name, path)) is None:
            found.files[path] = None
        else:
            found.passed_over[path] = reason


def is_store_folder(folder: str) -> bool:
    """Whether a folder is a store of ours: its targets, scores and runs are no data."""
    return all(
        os.path.isdir(os.path.join(folder, f"{table}.lance")) for table in ("pool", "recipes")
    )


def why_passed_over(name: str, path: str | None = None) -> str | None:
    """Why a file in a folder is not read, by its name; None for one that is.

    Args:
        path: of the file, which is looked into if its name has no ending; None for one elsewhere.
    """
    if name.startswith("."):
        return HIDDEN
    if describes_others(name):
        return DESCRIBES
    if CACHES.fullmatch(name):
        return CACHE
    if name.lower().endswith(UNFINISHED):
        return IS_UNFINISHED
    if is_readable_name(name) or (path and "." not in name and _begins_like_data(path)):
        return None
    return NO_ENDING


def is_readable_name(name: str) -> bool:
    """Whether a name has the ending of a data file, packed or not."""
    return without_packing(name).lower().endswith(NAMES)


def without_packing(name: str) -> str:
    """A name without the ending of a compression."""
    ending = next((ending for ending in PACKED if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def describes_others(name: str) -> bool:
    """Whether a file says what other files hold, by its name."""
    lower = name.lower()
    beside = next((ending for ending in BESIDE_EXPORTS if lower.endswith(ending)), None)
    return lower in DESCRIPTIONS or bool(beside and is_readable_name(lower.removesuffix(beside)))


def is_table_folder(folder: str) -> bool:
    """Whether a folder is one source: a Lance table or what `Dataset.save_to_disk` wrote."""
    return folder.rstrip("/").endswith(".lance") or is_datasets_folder(folder)


def is_datasets_folder(folder: str) -> bool:
    """Whether the package `datasets` keeps a data set in a folder, as Arrow files."""
    path = Path(folder)
    if not any(not CACHES.fullmatch(file.name) for file in path.glob("*.arrow")):
        return False
    return (path / "state.json").is_file() or _is_info_of_datasets(path / "dataset_info.json")


def _is_info_of_datasets(path: Path) -> bool:
    """Whether a `dataset_info.json` is that of `datasets`, not that of LLaMA-Factory."""
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return False
    except ValueError:
        return True  # its Arrow files tell more than a broken description
    return isinstance(info, dict) and (not info or any(key in info for key in DATASET_INFO))


def data_files(path: Path) -> list[str]:
    """The Arrow files of a `datasets` folder: those that state.json lists, in its order, or all.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: state.json is damaged.
    """
    state = path / "state.json"
    if state.is_file():
        listed = json.loads(state.read_text(encoding="utf-8")).get("_data_files")
        if listed:
            return [str(path / entry["filename"]) for entry in listed]
    return sorted(str(file) for file in path.glob("*.arrow") if not CACHES.fullmatch(file.name))


def _begins_like_data(path: str) -> bool:
    """Whether the first bytes of a file, unpacked, are those of JSON objects or a table."""
    try:
        with open(path, "rb") as handle:
            head = next(iter(ByteStream(HashedFile(handle, None), path)), b"")
    except (OSError, ValueError):
        return False
    return DATA.match(head) is not None


def passed_over_sentences(passed_over: Mapping[str, str]) -> list[str]:
    """What was passed over, in words: a sentence for each reason."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in passed_over.items():
        by_reason.setdefault(reason, []).append(path.rstrip("/").rsplit("/", 1)[-1])
    return [
        f"passed over {count_of(len(names), 'file')}, {reason}: {_shown(names)}"
        for reason, names in by_reason.items()
    ]


def _shown(names: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = len(distinct) - SHOWN_NAMES
    shown = ", ".join(distinct[:SHOWN_NAMES])
    return f"{shown} and {more:,} more" if more > 0 else shown
