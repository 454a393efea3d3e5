"""`coresetdb init`: make an empty store and settle how its features are made."""

from __future__ import annotations

from shlex import quote

import click

from .frame import store_argument, talk


@click.command(short_help="Make an empty store.")
@store_argument
@click.option(
    "--backbone",
    default="builtin",
    show_default=True,
    metavar="builtin|NAME|FOLDER",
    help="The model that makes features: the built-in proxy, a Hugging Face name or a folder.",
)
@click.option(
    "--features",
    default="rds,losses",
    show_default=True,
    metavar="NAME,...",
    help="What to keep per row: features with their options, or the presets fast and paper.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32 or bfloat16.")
@click.option("--max-length", type=int, help="Tokens of a row; the model's own bound otherwise.")
def init_command(
    store: str, backbone: str, features: str, device: str, dtype: str, max_length: int | None
) -> None:
    """Make an empty store at STORE, a folder or an s3:// address.

    Backbone and features are settled here, once, so that all rows are comparable.

    \b
        coresetdb init pool
        coresetdb init pool --backbone Qwen/Qwen3-0.6B --max-length 1024
        coresetdb init s3://bucket/pool --features rds,losses:alone=false
        coresetdb init pool --features fast,embed
        coresetdb init pool --features less:warmup=lora:epochs=2,paper,-embed

    The preset fast is rds, losses with a sketched gradient norm, nait, mads, trim and less, all of
    the model as it is; paper is what each paper says, with warm-up, ensemble and encoder.
    `coresetdb plan` tells what they cost.
    """
    from .. import create

    database = create(
        store,
        backbone=backbone,
        features=features,
        device=device,
        dtype=dtype,
        max_length=max_length,
    )
    for sentence in database.notices:
        talk(sentence)
    talk(f"{store}: an empty store for {features}, made by {backbone}.")
    if waiting := database.pending():
        talk(f"Fitted first, by the first ingest or by coresetdb fit: {', '.join(waiting)}.")
    talk(f"Next: coresetdb ingest {quote(store)} FILE...")
