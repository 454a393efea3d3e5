"""Build the documentation as a site: `make docs`.

Copies the pages of docs/, the README as the first page, and what they refer to into build/docs,
with links to each other; adds a reference of the commands, made by click, and of the Python names,
made from their docstrings; and has Zensical build build/site from them. A link that leads nowhere
fails the build.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from run_notebook import as_page

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "build" / "docs"
PACKAGE = ROOT / "build" / "package" / "coresetdb"
"""The package under its name, which the folder of a checkout need not have: links to its files."""

OTHERS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "proxies/CARD.md": "card.md",
    "demo/SOURCES.md": "demo-sources.md",
}
"""Pages that are kept elsewhere -> their name in the site."""

COMMANDS = """# Commands

::: mkdocs-click
    :module: coresetdb.cli.main
    :command: commands
    :prog_name: coresetdb
    :depth: 1
    :style: table
    :list_subcommands: True
"""

PYTHON = """# Python

::: coresetdb.database.connect

::: coresetdb.database.create

::: coresetdb.database.verify

::: coresetdb.database.repair

::: coresetdb.database.Database

::: coresetdb.query.coresets.Coreset

## Errors

::: coresetdb.schemas.errors
    options:
      show_root_heading: false
      show_root_toc_entry: false
"""

LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def links_in_site(text: str, page: Path) -> str:
    """Return a page with its links to files of the repository as links between pages."""

    def changed(found: re.Match[str]) -> str:
        place = (page.parent / found[1]).resolve().relative_to(ROOT)
        name = OTHERS.get(str(place), str(place).removeprefix("docs/"))
        return f"]({name}{found[2] or ''})"

    return LINK.sub(changed, text)


def assemble() -> None:
    """Write all pages to build/docs."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / name for name in OTHERS)]:
        name = OTHERS.get(str(page.relative_to(ROOT)), page.name)
        text = links_in_site(page.read_text(encoding="utf-8"), page)
        (PAGES / name).write_text(text, encoding="utf-8")
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    page = links_in_site(as_page(notebook), ROOT / "docs" / "notebook.md")
    (PAGES / "notebook.md").write_text(page, encoding="utf-8")
    for picture in (ROOT / "docs").glob("*.png"):
        shutil.copy(picture, PAGES)
    shutil.copytree(ROOT / "docs" / "evidence", PAGES / "evidence")
    (PAGES / "commands.md").write_text(COMMANDS, encoding="utf-8")
    (PAGES / "python.md").write_text(PYTHON, encoding="utf-8")


def link_package() -> None:
    """Link the package's modules to where docstrings are read from, as folders that say that they
    are packages."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for package in settings["tool"]["setuptools"]["packages"]:
        place = Path(*package.split(".")[1:])
        (PACKAGE / place).mkdir(parents=True, exist_ok=True)
        for module in (ROOT / place).glob("*.py"):
            (PACKAGE / place / module.name).symlink_to(module)
        if place.parts:
            (PACKAGE / place / "__init__.py").touch()


def main() -> None:
    """Assemble and build; exit with 1 where a link is broken."""
    assemble()
    link_package()
    shutil.rmtree(ROOT / "build" / "site", ignore_errors=True)
    zensical = Path(sys.executable).with_name("zensical")
    built = subprocess.run([zensical, "build", "--strict", "--clean"], cwd=ROOT)
    if built.returncode:
        sys.exit("the site was not built")
    print(f"{ROOT / 'build' / 'site' / 'index.html'}")


if __name__ == "__main__":
    main()
