"""The site of the documentation: it is built, and no link in it leads nowhere."""

import importlib.util
import re
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("zensical", "mkdocs_click")),
    reason="the extra [docs] is not installed",
)


def test_the_site_has_every_page_command_and_method(repository, tmp_path):
    copy = tmp_path / "checkout"
    left_out = shutil.ignore_patterns("build", ".*", "tests", "*.egg-info", "__pycache__")
    shutil.copytree(repository, copy, ignore=left_out)
    done = subprocess.run(
        [sys.executable, copy / "docs" / "build_site.py"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "griffe:" not in done.stdout + done.stderr  # docstrings that the reference would lose
    site = copy / "build" / "site"
    for page in (repository / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").exists()
    for page in site.glob("*.html"):
        for link in re.findall(r'<a [^>]*href="([^"#?:]+)["#?]', page.read_text(encoding="utf-8")):
            assert (site / link.lstrip("/")).exists(), f"{page.name} links to {link}"
    commands = (site / "commands.html").read_text(encoding="utf-8")
    assert "Featurize the examples in FILE" in commands and "--bins" in commands
    python = (site / "python.html").read_text(encoding="utf-8")
    assert "Database.select" in python and "StoreBusyError" in python
