"""Bits per byte of the exported proxy on the held-out rows, beside unigram, gzip and xz.

    python proxies/evaluate.py [--data PATH] [--model proxies/builtin] [--every N]

All columns count the same bytes: the UTF-8 bytes of the held-out contents of a source.

* proxy: nats of every token of the rendered conversation after the first (role headers and
  end-of-turn tokens are counted in, the opening `<|endoftext|>` is given) / ln 2 / bytes. Weights
  as exported, computed in fp32. Rows over the context are scored in windows that overlap by half,
  every token once.
* unigram: the same tokens by their add-one frequency in the training split.
* gzip -9, xz -9e: the same contents of the source, joined by newlines, as one file.

A second table keeps only the rows with little text that training saw elsewhere: less than a fifth
of their runs of 16 tokens occur in the training split. It is the fairer one for new text, because
many rows of the mix share passages, task texts and schemas with others.

Prints the markdown tables by family of sources and writes `results.json` (by single source too).
"""

import argparse
import gzip
import json
import lzma
import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from corpus import DATA, Row, read_rows
from tokenizer import CONTEXT_TOKENS, encode_conversations, load_tokenizer
from torch.nn import functional as F

FOLDER = Path(__file__).parent
BATCH_TOKENS = 4096
# What the proxy promises: whole mix, and distance to xz wherever enough bytes are held out.
WHOLE_AT_MOST = 1.35
BELOW_XZ_AT_LEAST = 0.4
ENOUGH_BYTES = 100_000
RUN_TOKENS = 16
MOSTLY_NEW_BELOW = 0.2  # share of a row's runs of tokens that training saw in other rows


def windows(tokens: Sequence[int]) -> list[tuple[list[int], int]]:
    """Cuts of a row as (tokens, number of leading targets already scored by the cut before)."""
    if len(tokens) <= CONTEXT_TOKENS + 1:
        return [(list(tokens), 0)]
    half = CONTEXT_TOKENS // 2
    return [
        (list(tokens[start : start + CONTEXT_TOKENS + 1]), half if start else 0)
        for start in range(0, len(tokens) - 1 - half, half)
    ]


@torch.no_grad()
def nats_by_row(model: torch.nn.Module, encoded: list[list[int]]) -> np.ndarray:
    """Summed loss of each row, (N,) float64 in nats; right-padded batches of like length."""
    cuts = [(row, *cut) for row, tokens in enumerate(encoded) for cut in windows(tokens)]
    cuts.sort(key=lambda cut: len(cut[1]))
    nats = np.zeros(len(encoded))
    while cuts:
        length = len(cuts[-1][1]) - 1  # longest first, so that memory is asked for once
        count = max(1, BATCH_TOKENS // length)
        cuts, batch = cuts[:-count], cuts[-count:]
        inputs = torch.zeros(len(batch), length, dtype=torch.long)
        targets = torch.full((len(batch), length), -100)
        for at, (_, tokens, known) in enumerate(batch):
            inputs[at, : len(tokens) - 1] = torch.tensor(tokens[:-1])
            targets[at, known : len(tokens) - 1] = torch.tensor(tokens[known + 1 :])
        logits = model(input_ids=inputs, use_cache=False).logits
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        for (row, *_), loss in zip(batch, losses.view(len(batch), length).sum(1), strict=True):
            nats[row] += float(loss)
    return nats


def unigram_nats(counts: np.ndarray, encoded: list[list[int]]) -> np.ndarray:
    """Summed loss of each row under add-one token frequencies, (N,) float64 in nats."""
    table = np.log(counts.sum() + len(counts)) - np.log(counts + 1.0)
    return np.array([table[tokens[1:]].sum() for tokens in encoded])


def run_hashes(tokens: np.ndarray) -> np.ndarray:
    """A 64-bit hash of every run of `RUN_TOKENS` tokens, (N - RUN_TOKENS + 1,) uint64."""
    scattered = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    count = max(0, len(tokens) - RUN_TOKENS + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(RUN_TOKENS):
        hashes = hashes * np.uint64(0xD1342543DE82EF95) + scattered[offset : offset + count]
        hashes ^= hashes >> np.uint64(31)
    return hashes


def seen_share(training: list[list[int]], encoded: list[list[int]]) -> np.ndarray:
    """Of each row's runs of tokens, the share that occurs in some training row; (N,) in 0..1."""
    runs = [run_hashes(np.array(tokens)) for tokens in encoded]
    wanted = np.unique(np.concatenate(runs))
    found = np.zeros(len(wanted), dtype=bool)
    for tokens in training:
        hashes = run_hashes(np.array(tokens))
        at = np.searchsorted(wanted, hashes).clip(max=len(wanted) - 1)
        found[at[wanted[at] == hashes]] = True
    return np.array([found[np.searchsorted(wanted, run)].mean() if len(run) else 0 for run in runs])


def describe(rows: list[Row], tokens: int, nats: float, unigram: float) -> dict[str, float]:
    """One line of the table: every measure in bits per byte of the rows' contents."""
    size = sum(row.content_bytes for row in rows)
    text = "\n".join(content for row in rows for _, content in row.messages).encode()
    packed = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    proxy, xz = nats / math.log(2) / size, 8 * len(packed) / size
    return {
        "rows": len(rows),
        "bytes": size,
        "tokens": tokens,
        "proxy": round(proxy, 4),
        "unigram": round(unigram / math.log(2) / size, 4),
        "gzip": round(8 * len(gzip.compress(text, 9)) / size, 4),
        "xz": round(xz, 4),
        "below_xz": round(xz - proxy, 4),
    }


def table(groups: dict[str, dict[str, float]]) -> str:
    """The lines of one grouping as markdown, largest first, the whole last."""
    lines = [
        "| source | rows | kB held out | proxy | unigram | gzip -9 | xz -9e | below xz |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, line in sorted(groups.items(), key=lambda item: item[0] == "whole"):
        numbers = " | ".join(
            f"{line[column]:.2f}" for column in ("proxy", "unigram", "gzip", "xz", "below_xz")
        )
        lines.append(f"| {name} | {line['rows']} | {line['bytes'] / 1000:.0f} | {numbers} |")
    return "\n".join(lines)


def verdict(families: dict[str, dict], sources: dict[str, dict]) -> dict[str, object]:
    """Whether the promises at the top of the file hold, and the source nearest to xz."""
    large = {
        name: line["below_xz"]
        for name, line in {**sources, **families}.items()
        if name != "whole" and line["bytes"] > ENOUGH_BYTES
    }
    worst = min(large, key=lambda name: large[name], default=None)
    whole = families["whole"]["proxy"]
    return {
        "whole": whole,
        "whole_at_most": WHOLE_AT_MOST,
        "worst_source": worst,
        "worst_below_xz": large.get(worst) if worst else None,
        "below_xz_at_least": BELOW_XZ_AT_LEAST,
        "holds": whole <= WHOLE_AT_MOST and all(gap >= BELOW_XZ_AT_LEAST for gap in large.values()),
    }


def processor() -> str:
    """The CPU's name where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} x {len(names) or 1}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Bits per byte on held-out rows")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", type=Path, default=FOLDER / "builtin")
    parser.add_argument("--out", type=Path, default=FOLDER / "results.json")
    parser.add_argument("--every", type=int, default=1, help="score every N-th held-out row only")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.float32, trust_remote_code=False
    )
    tokenizer = load_tokenizer(options.model)

    rows = list(read_rows(options.data))
    held_out = [row for row in rows if row.held_out][:: options.every]
    encoded = encode_conversations(tokenizer, [row.messages for row in held_out])
    training = encode_conversations(tokenizer, [r.messages for r in rows if not r.held_out])
    counts = np.zeros(tokenizer.get_vocab_size())
    for tokens in training:
        np.add.at(counts, tokens[1:], 1)
    seen = seen_share(training, encoded)

    nats, unigram = nats_by_row(model.eval(), encoded), unigram_nats(counts, encoded)
    predicted = np.array([len(tokens) - 1 for tokens in encoded])

    def grouped(names: list[str], kept: np.ndarray) -> dict[str, dict[str, float]]:
        groups = {}
        for name in dict.fromkeys(names):
            at = [i for i, other in enumerate(names) if other == name and kept[i]]
            if not at:
                continue
            chosen = [held_out[index] for index in at]
            groups[name] = describe(
                chosen, int(predicted[at].sum()), float(nats[at].sum()), float(unigram[at].sum())
            )
        return dict(sorted(groups.items(), key=lambda item: -item[1]["bytes"]))

    by_family, whole = [row.family for row in held_out], ["whole"] * len(held_out)
    everything, new = np.ones(len(held_out), dtype=bool), seen < MOSTLY_NEW_BELOW
    families = grouped(by_family, everything) | grouped(whole, everything)
    mostly_new = grouped(by_family, new) | grouped(whole, new)
    sources = grouped([row.source for row in held_out], everything)
    results = {
        "verdict": verdict(families, sources),
        "unit": "bits per UTF-8 byte of the held-out contents",
        "families": families,
        "families_mostly_new_rows": mostly_new,
        "sources": sources,
        "weights": "as exported (bf16), computed in fp32",
        "seconds": round(time.monotonic() - start, 1),
        "hardware": f"{processor()}, {options.threads} threads",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "command": f"python proxies/evaluate.py --every {options.every}",
    }
    if options.every == 1:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(families), "", "Mostly new rows:", "", table(mostly_new), sep="\n")
    print(json.dumps(results["verdict"]), f"in {results['seconds']} s")


if __name__ == "__main__":
    main()
