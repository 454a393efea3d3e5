"""Turn a training checkpoint into a transformers folder in bf16, and write the loss curve.

    python proxies/export.py --work DIR [--out proxies/builtin]

Before anything is written, `LlamaForCausalLM` with the checkpoint's weights must give the same
fp32 logits as the training model. bf16 because it is what the weights load and run in by default;
fp16 would be finer but is slow on CPU.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from model import Llama, Shape
from tokenizer import BOS, END, PAD, load_tokenizer
from torch.nn import functional as F
from transformers import GenerationConfig, LlamaForCausalLM

FOLDER = Path(__file__).parent
TOLERANCE = 2e-4  # largest difference of two fp32 logits, by order of summation only
CURVE_POINTS = 400


def transformers_model(
    shape: Shape, weights: dict[str, torch.Tensor], folder: Path
) -> LlamaForCausalLM:
    """`LlamaForCausalLM` in fp32 with the given weights; token ids from the tokenizer's folder."""
    tokenizer = load_tokenizer(folder)
    bos, end, pad = (tokenizer.get_vocab()[token] for token in (BOS, END, PAD))
    model = LlamaForCausalLM(shape.config(bos, end, pad)).float().eval()
    embedding = weights["model.embed_tokens.weight"]
    model.load_state_dict({**weights, "lm_head.weight": embedding}, strict=True)
    model.generation_config = GenerationConfig(
        bos_token_id=bos, eos_token_id=end, pad_token_id=pad, max_new_tokens=256
    )
    return model


@torch.no_grad()
def largest_difference(ours: Llama, theirs: LlamaForCausalLM) -> float:
    """Between the fp32 logits of both on random rows, short and long."""
    worst = 0.0
    for rows, length in ((5, 37), (2, 600)):
        tokens = torch.randint(0, ours.shape.vocabulary, (rows, length))
        states = ours.hidden(tokens.flatten(), rows, length)
        mine = F.linear(states, ours.weights["model/embed_tokens"]).view(rows, length, -1)
        worst = max(worst, (mine - theirs(tokens).logits).abs().max().item())
    return worst


def write_curve(log: list[dict], recipe: dict, path: Path) -> None:
    """A JSON object, one log entry per line: all that were watched, thinned out between."""
    every = max(1, len(log) // CURVE_POINTS)
    kept = [
        entry
        for index, entry in enumerate(log)
        if index % every == 0 or "held_out_bits_per_byte" in entry
    ]
    lines = ",\n".join(json.dumps(entry) for entry in kept)
    path.write_text(f'{{"recipe": {json.dumps(recipe)},\n"log": [\n{lines}\n]}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description="Checkpoint to model folder")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=FOLDER / "builtin")
    parser.add_argument("--curve", type=Path, default=FOLDER / "loss_curve.json")
    options = parser.parse_args()
    state = torch.load(options.work / "checkpoint.pt", weights_only=True)
    shape = Shape(**state["shape"])
    ours = Llama(shape, torch.float32, compiled=False)
    ours.load_state_dict(state["model"])
    tokenizer_folder = options.work / "tokenizer"
    model = transformers_model(shape, ours.transformers_state(), tokenizer_folder)
    difference = largest_difference(ours, model)
    if difference > TOLERANCE:
        raise SystemExit(f"logits differ by {difference:.2e} > {TOLERANCE}: nothing was exported")

    options.out.mkdir(parents=True, exist_ok=True)
    model.bfloat16().save_pretrained(options.out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_folder / name, options.out / name)
    counters = state["counters"]
    write_curve(counters["log"], state["recipe"], options.curve)
    print(
        f"logits agree within {difference:.1e}; {sum(p.numel() for p in model.parameters())} "
        f"parameters after {counters['tokens']} tokens, {counters['elapsed_s'] / 60:.1f} minutes"
    )


if __name__ == "__main__":
    main()
