"""The proxy's corpus: rows of the permissive mix, without duplicates, split by content hash.

Not a script; `train.py`, `tokenizer.py` and `evaluate.py` read the data through it.

Every row becomes a list of messages; a row that is only text becomes one assistant message.
Two rows with the same canonical content (roles and contents, Unicode NFC, white space collapsed,
case folded) are duplicates and the first is kept. A row is held out when the hash of that same
canonical content says so, so nothing held out is in training, whatever the file's order.
What the split does not prevent: rows of Natural Instructions, P3, SGD, XQuAD and TyDi QA share
task definitions, schemas and passages with other rows, and those may lie on both sides.
"""

import gzip
import hashlib
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "permissive" / "train_mix.jsonl.gz"
HELD_OUT_PER_MILLE = 20


@dataclass(frozen=True)
class Row:
    """One conversation: messages as (role, content), the `source` and `licence` of its row."""

    messages: tuple[tuple[str, str], ...]
    source: str
    licence: str
    held_out: bool

    @property
    def family(self) -> str:
        """The source without its task: `ni_v1/subtask032_...` is of the family `ni_v1`."""
        return self.source.split("/")[0]

    @property
    def content_bytes(self) -> int:
        """UTF-8 bytes of the contents alone, without roles or template."""
        return sum(len(content.encode()) for _, content in self.messages)


def canonical_content(messages: tuple[tuple[str, str], ...]) -> bytes:
    """Roles and contents in the form in which two rows are compared and hashed."""
    plain = [
        (role, " ".join(unicodedata.normalize("NFC", content).casefold().split()))
        for role, content in messages
    ]
    return json.dumps(plain, ensure_ascii=False).encode()


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a gzipped JSON-lines file in file order, duplicates left out."""
    seen: set[bytes] = set()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if "messages" in record:
                messages = tuple((m["role"], m["content"]) for m in record["messages"])
            else:
                messages = (("assistant", record["text"]),)
            digest = hashlib.sha256(canonical_content(messages)).digest()
            if digest in seen:
                continue
            seen.add(digest)
            held_out = int.from_bytes(digest[:8], "big") % 1000 < HELD_OUT_PER_MILLE
            yield Row(messages, record["source"], record["licence"], held_out)
