"""What every benchmark needs: the shortest time of several runs, and versions and hardware."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import coresetdb

LIBRARIES = ("torch", "transformers", "pylance", "lancedb", "pyarrow", "duckdb", "numpy")


def circumstances() -> dict[str, Any]:
    """Versions of what was run, the machine, how busy it was, and when."""
    return {
        "versions": {
            "coresetdb": coresetdb.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "hardware": {
            "processor": processor(),
            "cpus": os.cpu_count(),
            "load": os.getloadavg()[0],
        },
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def processor() -> str:
    """The processor's name, as the system gives it."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_report(path: str | Path, benchmark: str, facts: dict[str, Any]) -> None:
    """Write a benchmark's figures as JSON, with the circumstances."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"benchmark": benchmark, **facts, **circumstances()}, file, indent=2)
    print(f"written to {path}", file=sys.stderr)


def best(repeat: int, action: Callable[[], object]) -> float:
    """Shortest of `repeat` runs, in seconds, after one to warm up."""
    action()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)
