"""What this process may use of its machine: processors and memory, by its container's bounds too.

Processors are bounded by affinity and by the quotas of control groups, memory by what is free and
by the groups' limits. Both versions of control groups are read.
"""

from __future__ import annotations

import os
from pathlib import Path

THREADS_VARIABLE = "OMP_NUM_THREADS"

GROUPS = Path("/sys/fs/cgroup")
"""Where control groups are mounted."""

OWN = Path("/proc/self/cgroup")
"""Names the groups of this process."""


def usable_processors() -> int:
    """Return how many processors can be kept busy, at least 1.

    A quota of 2.5 processors counts as 2: threads that outnumber a quota are stopped together for
    the rest of every period.
    """
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
    else:
        processors = os.cpu_count() or 1
    quotas = [quota for folder in _groups("cpu") if (quota := _quota(folder))]
    return max(1, int(min([processors, *quotas])))


def threads_of_user() -> int | None:
    """Return the number of threads that the environment settles, None where it leaves it open."""
    first = os.environ.get(THREADS_VARIABLE, "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def free_memory() -> int | None:
    """Return the bytes of memory that are free, None where that is not known."""
    lines = _text(Path("/proc/meminfo")).splitlines()
    free = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    for folder in _groups("memory"):
        # Version 2 and version 1; what a group holds counts files in the page cache, too.
        for bound, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most, now = _text(folder / bound).strip(), _text(folder / used).strip()
            if most.isdecimal() and now.isdecimal():
                free.append(max(0, int(most) - int(now) + _page_cache(folder)))
    return min(free, default=None)


def _groups(controller: str) -> list[Path]:
    """Return the folders of the process's groups and of all above them, as far as they are seen.

    A container sees its own group as the root of the mount, though `OWN` may name the host's path.
    """
    folders: dict[Path, None] = {}
    for line in _text(OWN).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            mounts = [GROUPS, GROUPS / "unified"]
        elif controller in controllers.split(","):
            mounts = [GROUPS / controllers, GROUPS / controller]
        else:
            continue
        inner = Path(path.lstrip("/"))
        for mount in mounts:
            folders |= dict.fromkeys(mount / part for part in (inner, *inner.parents))
    return list(folders)


def _quota(group: Path) -> float | None:
    """Return the processors that a group may use, None for no bound."""
    words = _text(group / "cpu.max").split() or [
        _text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    if len(words) != 2 or not all(map(str.isdecimal, words)) or not int(words[1]):
        return None  # "max", -1, or no file
    return int(words[0]) / int(words[1])


def _page_cache(group: Path) -> int:
    """Return the bytes of files in a group's memory that the system would drop for others."""
    for line in _text(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file" and value.isdecimal():
            return int(value)
    return 0


def _text(file: Path) -> str:
    """Return the text of a file of the system; "" where there is none."""
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
