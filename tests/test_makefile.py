"""`make demo` says what it installs: every line where there is a log, and whether it failed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PIP = """#!/bin/bash
[[ "$*" == *--quiet* ]] && exit
[[ "$*" == *FAILS* ]] && { echo "ERROR: no such version" >&2; exit 1; }
echo "Collecting torch"
echo "  Downloading torch-2.whl (188.5 MB)"
echo "  Downloading https://example.org/a/rich-15.whl (1.2 MB)"
echo "  Downloading small-1.whl (12 kB)"
echo "Installing collected packages: a, b, c"
"""
PYTHON = f"""#!/bin/bash
mkdir -p .venv/bin
cat > .venv/bin/python <<'END'
{PIP}END
printf '#!/bin/bash\\necho the demo\\n' > .venv/bin/coresetdb
chmod +x .venv/bin/python .venv/bin/coresetdb
"""


@pytest.fixture
def make(tmp_path: Path, repository: Path):
    """Runs make in a folder where installing is only said."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(repository / name, tmp_path)
    fake = tmp_path / "fake" / "python3"
    fake.parent.mkdir()
    fake.write_text(PYTHON)
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    environment = {name: value for name, value in environment.items() if "MAKE" not in name}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["make", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )

    return run


def test_what_is_installed_is_said(make):
    made = make("demo")
    assert made.returncode == 0, made.stderr
    lines = made.stdout.splitlines()
    assert lines[0].startswith("Installing torch==") and "step 1 of 2" in lines[0]
    assert lines[1:3] == [
        "    Downloading torch-2.whl, 188.5 MB",
        "    Downloading rich-15.whl, 1.2 MB",
    ]
    assert "small-1" not in made.stdout and "Collecting" not in made.stdout
    assert sum("step 2 of 2" in line for line in lines) == 1 and lines[-1] == "the demo"
    assert make("demo").stdout.splitlines() == ["the demo"]


def test_an_installation_that_fails_is_not_taken_for_done(make):
    for _ in range(2):
        made = make("demo", "TORCH=FAILS")
        assert made.returncode and "ERROR: no such version" in made.stderr
        assert "the demo" not in made.stdout and "done in" not in made.stdout
