"""What features cost beside the bare model: one forward, one backward, in the same run.

    python benchmarks/one_pass.py [--backbone builtin | --random 31M] [--rows 256] [--out FILE]
    python benchmarks/one_pass.py --random 800M --brief --rank 128          without its parts

Floors: a bare forward with all logits; a forward with a backward to the activations only (frozen
weights, loss on response tokens). Against them: every forward-only feature of preset `fast`
without IFD, IFD's second forward by itself, all of `fast`, and `fast` without each feature in
turn (where the rest goes). The bare model gets padded batches made beforehand; features are timed
from tokens as well as from text. Rows are made up, their lengths drawn as in Alpaca (median about
110 tokens); `--data FILE` takes Alpaca-style JSON (.gz) instead. Times are the least of several
rounds taken in turns. Prints a table; writes JSON with versions and hardware.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from report import write_report

from coresetdb.ingest.conversations.tokenization import Encoded
from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.fits.fit import Sample
from coresetdb.ingest.jobs.fitting import ArtifactCache, MemoryCache, run_fits
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.batches import Batch, batch_cost, make_batch, plan_batches
from coresetdb.ingest.models.describe import BackboneConfig, describe
from coresetdb.ingest.representations.registry import PRESETS, parse_specs, recipe_for
from coresetdb.schemas.instruction import Instruction

WORDS = "the of a model data row that is and for with how many answer list name number".split()
SIZES = {"31M": (512, 8, 1376), "60M": (640, 10, 1728), "800M": (2048, 16, 5632)}
"""Width, layers and inner width of random llamas with the built-in proxy's vocabulary."""

FIT_ROWS = 256
"""Rows that bases are fitted on: how good they are changes nothing of the cost."""


def made_up_rows(count: int, seed: int) -> list[Instruction]:
    """Rows of random words; prompt and answer lengths are log-normal."""
    draw = random.Random(seed)

    def text(median: int) -> str:
        words = max(1, min(800, round(draw.lognormvariate(0, 0.9) * median)))
        return " ".join(draw.choice(WORDS) for _ in range(words))

    return [
        Instruction.from_turns(("user", text(20)), ("assistant", text(45))) for _ in range(count)
    ]


def alpaca_rows(path: Path, count: int, seed: int) -> list[Instruction]:
    """A seeded sample of an Alpaca-style JSON array."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        records = [record for record in json.load(file) if record["output"].strip()]
    return [
        Instruction.from_turns(
            ("user", "\n\n".join(filter(None, [each["instruction"], each["input"]]))),
            ("assistant", each["output"]),
        )
        for each in random.Random(seed).sample(records, min(count, len(records)))
    ]


def save_random_llama(folder: Path, size: str) -> Path:
    """A random llama with the built-in proxy's tokenizer, as a model folder."""
    width, layers, inner = SIZES[size]
    proxy = describe(BackboneConfig("builtin"))
    config = transformers.LlamaConfig(
        vocab_size=proxy.vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    for file in proxy.folder.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def best_seconds(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Least wall time of each work over `rounds`, taken in turns so that noise meets them all."""
    best = dict.fromkeys(works, float("inf"))
    for round in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round:  # the first warms up
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def bare_forward(backbone: Backbone, batches: Sequence[Batch]) -> None:
    """The model alone, logits at every position."""
    with torch.inference_mode():
        for batch in batches:
            backbone.model(input_ids=batch.ids, attention_mask=batch.mask.long(), use_cache=False)


def bare_backward(backbone: Backbone, batches: Sequence[Batch]) -> None:
    """Forward, loss on response tokens, and the gradient of the embedded tokens; weights frozen."""
    embed = backbone.model.get_input_embeddings()
    head = backbone.model.get_output_embeddings()
    for batch in batches:
        with torch.enable_grad():
            embedded = embed(batch.ids).detach().requires_grad_()
            states = backbone.model.base_model(
                inputs_embeds=embedded, attention_mask=batch.mask.long(), use_cache=False
            ).last_hidden_state
            predicted = batch.response[:, 1:] & batch.mask[:, :-1]
            rows, before = predicted.nonzero(as_tuple=True)
            losses = torch.nn.functional.cross_entropy(
                head(states[rows, before]).float(), batch.ids[rows, before + 1], reduction="none"
            )
            counts = predicted.sum(1)[rows]
            torch.autograd.grad((losses / counts).sum(), embedded)


def featurizer_of(
    backbone: Backbone, features: str, sample: Sequence[Instruction], shelf: ArtifactCache
) -> Featurizer:
    """A featurizer of some features; what they need is fitted on `sample`, once per shelf."""
    wanted = parse_specs(features)

    def draw(seed: int, rows: Callable[[int], int]) -> Sample:
        return Sample([row.id for row in sample], sample, len(sample)).first(rows(len(sample)))

    found = run_fits(backbone.info, wanted, draw, lambda: backbone, shelf)
    recipes = [
        recipe_for(asked, backbone.info, each.artifacts, each.digests)
        for asked, each in zip(wanted, found, strict=True)
    ]
    artifacts = {
        each.digests[name]: artifact for each in found for name, artifact in each.artifacts.items()
    }
    return Featurizer(backbone, recipes, artifacts=artifacts)


def feature_sets(rank: int, brief: bool) -> dict[str, str]:
    """Label -> features: `fast`, its forward part, and (unless `brief`) both without each one."""
    whole = [f"trim:rank={rank}" if each == "trim" else each for each in PRESETS["fast"]]
    plain = [each.replace("losses:", "losses:alone=false:") for each in whole]
    forward = [
        "losses:alone=false" if each.startswith("losses") else each
        for each in plain
        if each != "less"
    ]
    sets = {
        "forward-only features, no IFD": forward,
        "forward-only features": [e.replace("losses:alone=false", "losses") for e in forward],
        "fast, no IFD": plain,
        "fast": whole,
    }
    for label, entries in (("forward-only", forward), ("fast", plain)) if not brief else ():
        for entry in entries:
            name = entry.partition(":")[0]
            sets[f"{label}, no IFD, without {name}"] = [e for e in entries if e != entry]
    return {label: ",".join(features) for label, features in sets.items()}


def measure(backbone: Backbone, rows: Sequence[Instruction], options: argparse.Namespace) -> dict:
    """Print the table of one backbone, and give its figures back."""
    known = backbone.encode_all(rows)
    encoded = [row for row in known if isinstance(row, Encoded)]
    tokens = sum(map(len, encoded))
    shelf = MemoryCache()
    featurizers = {
        label: featurizer_of(backbone, features, rows[:FIT_ROWS], shelf)
        for label, features in feature_sets(options.rank, options.brief).items()
    }
    budget = featurizers["fast"].tokens_per_batch
    batches = [
        make_batch([encoded[i] for i in members], backbone.padding_token, backbone.device)
        for members in plan_batches(list(map(len, encoded)), budget, batch_cost(backbone, budget))
    ]
    floors = {
        "floor: forward, all logits": partial(bare_forward, backbone, batches),
        "floor: forward, activation backward": partial(bare_backward, backbone, batches),
    }
    works: dict[str, Callable[[], Any]] = {
        **floors,
        "text to tokens": lambda: backbone.encode_all(rows),
    }
    for label, featurizer in featurizers.items():
        works[label] = partial(featurizer.compute_encoded, known, rows)
    works["fast, from text to table"] = partial(featurizers["fast"].featurize, rows)
    timed = best_seconds(works, options.rounds)
    forward, backward = (timed[label] for label in floors)
    print(
        f"{options.random or backbone.info.name}: {len(rows)} rows, {tokens} tokens "
        f"({sum(batch.ids.numel() for batch in batches)} padded), {backbone.config.dtype} on "
        f"{backbone.device}, {torch.get_num_threads()} threads"
    )
    print(f"{'':40}{'seconds':>9}{'tokens/s':>10}{'x forward':>11}{'x backward':>12}")
    for label, spent in timed.items():
        rate, over, beside = tokens / spent, spent / forward, spent / backward
        print(f"{label:40}{spent:9.3f}{rate:10.0f}{over:11.2f}{beside:12.2f}")
    return {
        "backbone": options.random or backbone.info.name,
        "tokens": tokens,
        "seconds": timed,
        "over_forward": {label: spent / forward for label, spent in timed.items()},
        "over_backward": {label: spent / backward for label, spent in timed.items()},
        "dtype": backbone.config.dtype,
        "device": str(backbone.device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="builtin")
    parser.add_argument("--random", choices=SIZES, help="a random llama instead")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rank", type=int, default=0, help="of TRIM's basis; 0: it is tried out")
    parser.add_argument("--brief", action="store_true", help="nothing without each feature")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("one_pass.json"))
    options = parser.parse_args()

    with TemporaryDirectory() as folder:
        if options.random:
            options.backbone = str(save_random_llama(Path(folder), options.random))
        config = BackboneConfig(options.backbone, options.device, options.dtype)
        rows = (
            alpaca_rows(options.data, options.rows, options.seed)
            if options.data
            else made_up_rows(options.rows, options.seed)
        )
        figures = measure(Backbone.load(config), rows, options)
    asked = {"options": {name: str(value) for name, value in vars(options).items()}}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    ran = {"threads": torch.get_num_threads(), "gpu": gpu}
    write_report(options.out, "one_pass", asked | figures | ran)


if __name__ == "__main__":
    main()
