"""Fine-tune a model on rows of the pool, and put it back as it was.

TRL's `SFTTrainer` trains; tokens and the mask of what is learned are those of the store's own
tokenization, so what a feature saw is what is trained on.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..ingest.conversations.tokenization import Encoded
from ..schemas.errors import BackboneError, UsageError
from ..schemas.plain_text import count_of
from ..schemas.scratch import ScratchFolder

if TYPE_CHECKING:
    from ..ingest.models.backbone import Backbone

NEEDED = "trl"


@dataclass(frozen=True)
class TrainingRecipe:
    """How every arm of a study is trained.

    Attributes:
        model: a Hugging Face name, the folder of a causal language model, or `builtin`.
        dtype, device: of the computation, resolved.
        lora: rank of the adapters on all linear layers, 0 to train every weight.
        epochs: over the rows.
        learning_rate: the highest; it rises over 3 % of the steps, then falls, both linearly.
        batch: rows of a step.
        max_length: tokens of a row.
    """

    model: str
    dtype: str
    device: str
    lora: int = 16
    epochs: int = 2
    learning_rate: float = 2e-4
    batch: int = 8
    max_length: int = 512

    def __post_init__(self) -> None:
        for name, least in (("lora", 0), ("epochs", 1), ("batch", 1), ("max_length", 2)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} {getattr(self, name)}: give at least {least}")
        if not 0 < self.learning_rate <= 1:
            raise UsageError(
                f"learning rate {self.learning_rate}: give a number above 0, at most 1"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        how = f"LoRA of rank {self.lora}" if self.lora else "all weights"
        return (
            f"{self.model}, {how}, {count_of(self.epochs, 'epoch')}, "
            f"learning rate {self.learning_rate:g}, batches of {self.batch}, "
            f"rows of at most {self.max_length} tokens, {self.dtype}"
        )


DEFAULT_RATES = {True: 2e-4, False: 2e-5}
"""The learning rate of adapters, and of all weights."""

WARM_UP = 0.03
LORA_ALPHA_PER_RANK = 2


def require_trainer() -> None:
    """Refuse where TRL is not installed.

    Raises:
        UsageError: it is not.
    """
    import importlib.util

    if importlib.util.find_spec(NEEDED) is None:
        raise UsageError(
            "training needs TRL, which is not installed: pip install 'coresetdb[evaluate]'"
        )


@contextlib.contextmanager
def trained(
    backbone: Backbone,
    rows: Sequence[Encoded],
    recipe: TrainingRecipe,
    seed: int,
    report: Callable[[float, str], None] = lambda share, said: None,
    steps: int | None = None,
) -> Iterator[int]:
    """Train a loaded model on rows; inside the block it is the trained one, afterwards as it was.

    Args:
        rows: each with a response token that has a token before it.
        seed: of the adapters' initial weights and of the order of the rows.
        report: called with the share that is done and a sentence with the loss.
        steps: stop after so many, to measure what a step takes.

    Yields:
        Tokens seen in training, every epoch counted.

    Raises:
        BackboneError: the loss is not finite.
    """
    import torch

    from ..ingest.passes.adapters import peft_in_model_dtype

    model = backbone.model
    before = None if recipe.lora else _copied_weights(model)
    torch.manual_seed(seed)  # adapters start from random numbers
    with _without_deprecations():
        adapted = _with_adapters(model, recipe) if recipe.lora else model.requires_grad_(True)
    try:
        with (
            torch.enable_grad(),
            _without_deprecations(),
            peft_in_model_dtype(model, trained=False),
        ):
            seen = _train(adapted, backbone, rows, recipe, seed, report, steps)
        model.eval()
        with peft_in_model_dtype(model, trained=True):
            yield seen
    finally:
        if recipe.lora:
            adapted.unload()
        else:
            model.load_state_dict(before)
        model.eval().requires_grad_(False)


@contextlib.contextmanager
def _without_deprecations() -> Iterator[None]:
    """Hide that the libraries call each other's deprecated names inside the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Keep accelerate from emptying the environment of the process for a moment.

    It looks up the defaults of its settings so. Another thread, such as one that renews a lease on
    an object store, would find no credentials meanwhile, or crash as it reads (see
    `schemas.library_variables`).
    """
    from accelerate.utils import environment

    emptied = environment.clear_environment
    environment.clear_environment = contextlib.nullcontext
    try:
        yield
    finally:
        environment.clear_environment = emptied


def _copied_weights(model: Any) -> dict[str, Any]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _with_adapters(model: Any, recipe: TrainingRecipe) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.lora,
        lora_alpha=LORA_ALPHA_PER_RANK * recipe.lora,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _train(
    model: Any,
    backbone: Backbone,
    rows: Sequence[Encoded],
    recipe: TrainingRecipe,
    seed: int,
    report: Callable[[float, str], None],
    steps: int | None,
) -> int:
    from datasets import Dataset
    from datasets.utils import logging as datasets_logging
    from transformers import AutoTokenizer, TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from ..ingest.models.backbone import without_progress_bars
    from .learned_loss import IGNORED, loss_of_step

    per_epoch = math.ceil(len(rows) / recipe.batch)
    total = recipe.epochs * per_epoch
    losses: list[float] = []

    class Reporting(TrainerCallback):
        """Passes on the loss of every step."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))
                report(
                    state.global_step / total,
                    f"step {state.global_step} of {total}: loss {losses[-1]:.3f}",
                )

    class LearnedTokensTrainer(SFTTrainer):
        """Takes the loss as `loss_of_step` does where the output layer is frozen."""

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            head = backbone.model.get_output_embeddings()
            if return_outputs or not backbone.plain_head or head.weight.requires_grad:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            loss, count = loss_of_step(
                backbone, inputs["input_ids"], inputs["attention_mask"].bool(), inputs["labels"]
            )
            return loss / (count if num_items_in_batch is None else num_items_in_batch)

    datasets_logging.disable_progress_bar()
    data = Dataset.from_dict(
        {
            "input_ids": [row.ids.tolist() for row in rows],
            "labels": [
                [
                    int(id) if learned else IGNORED
                    for id, learned in zip(row.ids, row.response, strict=True)
                ]
                for row in rows
            ],
        }
    )
    on_cpu = backbone.device.type == "cpu"
    with ScratchFolder() as folder, without_progress_bars(), _environment_kept():
        settings = SFTConfig(
            output_dir=folder,
            num_train_epochs=recipe.epochs,
            max_steps=steps or -1,
            per_device_train_batch_size=recipe.batch,
            gradient_accumulation_steps=1,
            gradient_checkpointing=not on_cpu,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=math.ceil(WARM_UP * total),
            max_length=recipe.max_length,
            packing=False,
            pad_to_multiple_of=backbone.width_multiple,
            seed=seed,
            data_seed=seed,
            bf16=False,  # the weights are in the dtype of the recipe already
            fp16=False,
            use_cpu=on_cpu,
            dataloader_pin_memory=not on_cpu,
            report_to=[],
            save_strategy="no",
            eval_strategy="no",
            logging_steps=1,
            logging_first_step=True,
            disable_tqdm=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            backbone.info.folder, local_files_only=True, trust_remote_code=False
        )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(backbone.padding_token)
        trainer = LearnedTokensTrainer(
            model=model,
            args=settings,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[Reporting()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if not losses or not all(map(math.isfinite, losses)):
        raise BackboneError(
            f"{recipe.model}: training failed: the loss is not finite. Use dtype float32 or a "
            "lower learning rate"
        )
    shown = steps or total
    tokens = sum(map(len, rows)) * recipe.epochs
    return tokens if shown == total else round(tokens * shown / total)
