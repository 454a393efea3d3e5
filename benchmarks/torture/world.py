"""The small store that every case starts from, and the commands that are done to it."""

from __future__ import annotations

import importlib
import json
import pickle
import random
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contents import contents
from helpers.killing import watched_changes
from helpers.tiny_models import save_tiny_model
from processes import Run, type_in

ROWS, NEW = 24, 12

COMMANDS = {
    "ingest": "ingest STORE FILES/part1.jsonl",
    "ingest, 2 workers": "ingest STORE FILES/part1.jsonl --workers 2",
    "featurize": "featurize STORE mads",
    "featurize, 2 workers": "featurize STORE mads --workers 2",
    "featurize, with a fit": "featurize STORE less",
    "select": "select STORE t --budget 7 --name new --leakage off --out OUT/new.jsonl",
    "select, no name": "select STORE t --budget 4 --leakage off --out OUT/rows.jsonl",
    "score": "score run STORE t --with bm25",
    "compact": "compact STORE --keep-hours 0",
    "repair": "verify STORE --repair",
    "repair, 2 workers": "verify STORE --repair --workers 2",
    "remove": "remove STORE --ids FILES/ids.txt --why again",
    "remove --purge": "remove STORE --ids FILES/ids.txt --purge --yes",
    "restore": "restore STORE --ids FILES/gone.txt",
    "purge": "purge STORE --yes",
    "target add": "target add STORE u FILES/examples.jsonl",
    "target copy": "target copy FILES/other u STORE",
    "target remove": "target remove STORE spare",
    "coreset remove": "coreset remove STORE words",
    "coreset import": "coreset import STORE picked FILES/ids.txt",
    "feature remove": "feature remove STORE rds --force",
    "score remove": "score remove STORE t",
    "annotate": "annotate STORE FILES/judged.jsonl --prefix judge_",
    "annotation remove": "annotation remove STORE label",
    "vectors add": "vectors add STORE own FILES/vectors.jsonl --model other",
    "dedup": "dedup STORE",
    "index create": "index create STORE rds",
    "corpus rename": "corpus rename STORE CORPUS renamed",
    "evaluate": "evaluate run STORE t --eval FILES/part3.jsonl --methods rds --budgets 3 "
    "--controls random --seeds 1 --epochs 1 --limit 2 --name study",
    "evaluate remove": "evaluate remove STORE kept",
    "report": "report STORE kept --out OUT/report.html",
    "export": "export STORE kept --out OUT/kept.jsonl",
}
"""What a user types, by the name it has in the table; STORE, FILES and OUT are filled in."""

REMOTE = {
    "init": "init STORE --backbone FILES/model --features lexical,rds",
    "verify": "verify STORE --full",
    "status": "status STORE --verbose",
    "sql": "sql STORE 'SELECT id, corpus, messages FROM pool ORDER BY id' --parquet OUT/r.parquet",
    "replay": "coreset replay STORE kept",
}
"""What is typed on S3 alone: it reads, or a kill of it has a test of its own."""

NEW_STORE = ("init",)
"""Commands that make the store."""

_BASE = (
    "init STORE --backbone FILES/model --features lexical,rds",
    "ingest STORE FILES/part0.jsonl --limit 8",
    "ingest STORE FILES/part0.jsonl --limit 16",
    "ingest STORE FILES/part0.jsonl",
    "target add STORE t FILES/examples.jsonl",
    "target add STORE spare FILES/examples.jsonl",
    "select STORE t --budget 6 --name kept --leakage off",
    "select STORE t --method bm25 --budget 5 --name words --leakage off",
    "score run STORE t --with rds",
    "annotate STORE FILES/labels.jsonl --prefix label_",
    "evaluate run STORE t --eval FILES/part3.jsonl --methods rds --budgets 3 --controls random "
    "--seeds 1 --epochs 1 --limit 2 --name kept",
    "index create STORE rds",
    "remove STORE --ids FILES/gone.txt --why torture",
)


@dataclass(frozen=True)
class Expected:
    """What a command comes to where nothing disturbs it.

    Attributes:
        contents: of the store, as `contents.contents` gives them.
        files: name -> bytes of what it wrote elsewhere.
        seconds: of a processor that it took.
        moments: changes of files times two, as `helpers.killing` counts them.
    """

    contents: dict[str, Any]
    files: dict[str, bytes]
    seconds: float
    moments: int


class World:
    """A folder with the first store, its files, and what each command comes to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "base"
        self.files = folder / "files"
        folder.mkdir(parents=True, exist_ok=True)
        self._load([])
        if not (folder / "made").exists():
            shutil.rmtree(self.base, ignore_errors=True)
            shutil.rmtree(self.files, ignore_errors=True)
            self._write_files()
            for line in _BASE:
                self._do(self.words(line, self.base, folder))
                if line.startswith("ingest"):
                    self._note_ids()
            other = self.files / "other"
            shutil.rmtree(other, ignore_errors=True)
            shutil.copytree(self.base, other)
            self._do(["target", "add", str(other), "u", str(self.files / "examples.jsonl")])
            (folder / "made").touch()

    def words(self, line: str, store: Path | str, out: Path) -> list[str]:
        """A line of `COMMANDS` as the words that are typed."""
        where = {"STORE": str(store), "FILES": str(self.files), "OUT": str(out)}
        where["CORPUS"] = self.folder.name  # as the reader names rows in its folder `files`
        words = shlex.split(line)
        for name, path in where.items():
            words = [
                path + word[len(name) :] if word == name or word.startswith(f"{name}/") else word
                for word in words
            ]
        return words

    def expected(self, name: str) -> Expected:
        """What a command comes to, tried once on a copy of the base and kept."""
        kept = self.folder / "expected" / f"{name.replace(' ', '_')}.pickle"
        if kept.exists():
            return pickle.loads(kept.read_bytes())
        kept.parent.mkdir(exist_ok=True)
        store, out = self.fresh(self.folder / "undisturbed")
        if name in NEW_STORE:
            shutil.rmtree(store)
        words = self.words((COMMANDS | REMOTE)[name], store, out)
        made = kept.with_suffix(".part")

        def undisturbed() -> None:
            start = time.process_time()
            with watched_changes(lambda reached: None) as moments:
                try:
                    type_in(words, self.folder)
                except SystemExit as end:
                    if end.code:
                        raise
            seconds = time.process_time() - start
            files = {path.name: path.read_bytes() for path in out.iterdir()}
            found = Expected(contents(str(store)), files, seconds, len(moments))
            made.write_bytes(pickle.dumps((found, sorted(sys.modules))))

        run = Run(undisturbed, self.folder / "expected.log")
        if code := run.wait():
            sys.exit(f"{name} does not work undisturbed ({code}): {run.said}")
        expected, modules = pickle.loads(made.read_bytes())
        made.unlink()
        if self._load(modules):  # then it takes less time from now on
            return self.expected(name)
        kept.write_bytes(pickle.dumps(expected))
        return expected

    def _load(self, modules: list[str]) -> bool:
        """Import what a command imported, so that the next need not; whether that was much."""
        kept = self.folder / "modules.json"
        known = json.loads(kept.read_text()) if kept.exists() else []
        modules = sorted({*known, *modules})
        kept.write_text(json.dumps(modules))
        before = len(sys.modules)
        for name in modules:
            if name not in sys.modules and not name.startswith("_"):
                try:
                    importlib.import_module(name)
                except Exception as error:
                    print(f"{name} is left to each process: {error}", file=sys.stderr)
        return len(sys.modules) > before + 20

    def base_contents(self) -> dict[str, Any]:
        """What the first store holds."""
        kept = self.folder / "expected" / "base.pickle"
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            run = Run(
                lambda: kept.write_bytes(pickle.dumps(contents(str(self.base)))),
                self.folder / "expected.log",
            )
            if code := run.wait():
                sys.exit(f"the first store cannot be read ({code}): {run.said}")
        return pickle.loads(kept.read_bytes())

    def fresh(self, room: Path | None = None) -> tuple[Path, Path]:
        """A copy of the base, and an empty folder for what is written elsewhere."""
        room = room or self.folder / "case"
        store, out = room / "store", room / "out"
        for path in (store, out):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.base, store)
        out.mkdir(parents=True)
        return store, out

    def _do(self, words: list[str]) -> None:
        run = Run(lambda: type_in(words, self.folder), self.folder / "make.log")
        if code := run.wait():
            sys.exit(f"the first store could not be made: {words} ended with {code}: {run.said}")

    def _write_files(self) -> None:
        self.files.mkdir()
        save_tiny_model(self.files / "model", "llama")
        draw = random.Random(5)
        words = "one two red blue sum list code word name line text fact list city tree".split()

        def row(number: int) -> str:
            asked, said = (" ".join(draw.sample(words, 5)) for _ in range(2))
            texts = (f"Say {number}: {asked}", f"{said} {number}")
            roles = ("user", "assistant")
            turns = [
                {"role": role, "content": text} for role, text in zip(roles, texts, strict=True)
            ]
            return json.dumps({"messages": turns}) + "\n"

        rows = [row(number) for number in range(ROWS + 3 * NEW)]
        for part in range(4):
            start = ROWS + (part - 1) * NEW if part else 0
            lines = rows[start : start + (NEW if part else ROWS)]
            (self.files / f"part{part}.jsonl").write_text("".join(lines))
        (self.files / "examples.jsonl").write_text("".join(rows[2:ROWS:6]))

    def _note_ids(self) -> None:
        def note() -> None:
            import coresetdb

            table = coresetdb.connect(str(self.base)).store.dataset("pool").to_table(columns=["id"])
            ids = sorted(table["id"].to_pylist())
            (self.files / "gone.txt").write_text("\n".join(ids[:3]) + "\n")
            (self.files / "ids.txt").write_text("\n".join(ids[5:9]) + "\n")
            for name, value in {
                "labels": lambda number: {"kind": "ab"[number % 2]},
                "judged": lambda number: {"score": number / 4},
                "vectors": lambda number: {"vector": [1.0, number / 8, -number / 4, 0.5]},
            }.items():
                lines = [json.dumps({"id": i} | value(n)) for n, i in enumerate(ids)]
                (self.files / f"{name}.jsonl").write_text("\n".join(lines) + "\n")

        run = Run(note, self.folder / "make.log")
        if code := run.wait():
            sys.exit(f"the first store's ids could not be noted ({code}): {run.said}")
