"""Tiny random models of many architectures, and what `init` makes of each.

`python tests/helpers/architectures.py --update` writes docs/architectures.md, which a test holds.
"""

from __future__ import annotations

import copy
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from coresetdb.ingest.capabilities import features_possible
from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.batches import make_batch
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.passes.forward import run_pass
from coresetdb.ingest.passes.reducer import PassInputs
from coresetdb.ingest.representations.registry import parse_features, parse_specs
from coresetdb.schemas.errors import BackboneError
from helpers.naive_gradients import loss_of
from helpers.tiny_models import save_tiny_model, tiny_conversations
from helpers.watcher import Watcher

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 5,
    "pad_token_id": 6,
    # mixtures of experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    # latent attention
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    # state spaces
    "state_size": 8,
    "ssm_state_size": 8,
    "conv_kernel": 4,
    "time_step_rank": 4,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_dt_rank": 4,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "chunk_size": 16,
    "mamba_chunk_size": 16,
}
"""Given to every configuration class that has a field of the name, or maps the name to one."""

HALF = {"layer_types": ["linear_attention", "full_attention"]}
LATENT = {"num_key_value_heads": 4}
DELTA = {
    **HALF,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
BART = {
    f"{part}_{size}": value
    for part in ("encoder", "decoder")
    for size, value in (("layers", 2), ("ffn_dim", 48), ("attention_heads", 4))
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "bamba": {"attn_layer_indices": [1]},
    "bart": {"d_model": 32, **BART, "is_decoder": True, "is_encoder_decoder": False},
    "bert": {},
    "biogpt": {},
    "bitnet": {},
    "bloom": {},
    "codegen": {"rotary_dim": 4},
    "cohere2": {},
    "ctrl": {"dff": 48},
    "dbrx": {
        "attn_config": {"clip_qkv": 8, "kv_n_heads": 2, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone4": {},
    "falcon": {},
    "falcon_h1": {"mamba_d_ssm": 64},
    "falcon_mamba": {},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": 320,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "intermediate_size": [48, 48],
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "glm4": {},
    "glm4_moe": {},
    "gpt_bigcode": {},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gpt_oss": {},
    "gptj": {"rotary_dim": 4},
    "granite": {},
    "granitemoe": {},
    "granitemoehybrid": {**HALF, "shared_intermediate_size": 16},
    "helium": {},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": {},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "jetmoe": {},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "llama4_text": {},
    "mamba": {},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "minicpm3": LATENT,
    "minimax": {},
    "mistral": {},
    "mpt": {},
    "nanochat": {},
    "nemotron": {},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 1,
        "moe_shared_expert_intermediate_size": 16,
    },
    "olmo2": {},
    "olmoe": {},
    "openai-gpt": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "persimmon": {},
    "phi": {},
    "phi3": {},
    "phimoe": {},
    "qwen2_moe": {},
    "qwen3_5_text": DELTA,
    "qwen3_next": DELTA,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": 64},
    "roberta": {"is_decoder": True},
    "rwkv": {},
    "seed_oss": {},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "xglm": {"ffn_dim": 48},
    "xlm": {},
    "xlnet": {"d_inner": 48},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
        "hybrid_layer_ids": [1, 3],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "num_query_groups": 4,
        "kv_channels": 8,
        "adapter_rank": 4,
    },
}
"""Model type -> settings beside `SIZES`; those of `testing.ARCHITECTURES` have their own tests."""


def tiny_config_of(kind: str) -> Any:
    """A transformers config of two layers, width 32."""
    from transformers import CONFIG_MAPPING, AutoConfig

    config = CONFIG_MAPPING[kind]
    fields = config().to_dict()
    names = {size: config.attribute_map.get(size, size) for size in SIZES}
    settings = {names[size]: value for size, value in SIZES.items() if names[size] in fields}
    return AutoConfig.for_model(kind, **{**settings, **ARCHITECTURES[kind]})


def said_by_init(kind: str, folder: Path) -> tuple[str, list[str], str]:
    """Class of the model, which features of `fast` it can give, and what `init` says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_tiny_model(folder, tiny_config_of(kind))
    name, features = type(tiny_config_of(kind)).__name__.removesuffix("Config"), parse_specs("fast")
    try:
        backbone = Backbone.load(BackboneConfig(str(folder), "cpu", "float32"))
    except BackboneError as error:
        return name, [], str(error).replace(f"{folder}: ", "")
    name = type(backbone.model).__name__
    said = ""
    try:
        said = "; ".join(features_possible(backbone, features))
    except BackboneError as error:
        said = str(error)
        listed = re.search(r"--features (\S+)", said)
        features = parse_specs(listed[1]) if listed else []
        if features and (more := features_possible(backbone, features)):
            said += f". Without: {'; '.join(more)}"
    if any(spec.representation == "less" for spec in features):
        require_naive_gradients(backbone)
    require_no_batching_effect(backbone)
    return name, [str(spec) for spec in features], said.replace(f"{folder}: ", "")


class _Whole(Watcher):
    """Keeps the gradient of every weight."""

    def __init__(self) -> None:
        self.values: dict[str, torch.Tensor] = {}

    def gradient(self, gradient) -> None:
        assert gradient.name not in self.values, f"{gradient.name} is passed on twice"
        self.values[gradient.name] = gradient.values()


def require_naive_gradients(backbone: Backbone) -> None:
    """Compare every weight's gradient of rows in a batch with autograd's, a row at a time."""
    from transformers.pytorch_utils import Conv1D

    rows = [backbone.encode(row) for row in tiny_conversations()[5:9:3]]
    whole = _Whole()
    batch = make_batch(rows, backbone.padding_token, backbone.device)
    run_pass(backbone, batch, [(PassInputs(gradients=True), whole)])
    for module in backbone.model.modules():  # recurrent_gemma keeps its last states
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                setattr(module, name, None)
    model = copy.deepcopy(backbone.model).requires_grad_(True)
    for place, row in enumerate(rows):
        model.zero_grad()
        loss_of(model, row).backward()
        weights = dict(model.named_parameters())
        for name, values in whole.values.items():
            if f"{name}.weight" in weights:
                wanted = weights[f"{name}.weight"].grad
                transposed = isinstance(model.get_submodule(name), Conv1D)
            else:
                weight, _, expert = name.rpartition(".")
                wanted = weights[weight].grad[int(expert)]
                holder = model.get_submodule(weight.rpartition(".")[0])
                transposed = getattr(holder, "is_transposed", False)
            wanted = wanted.T if transposed else wanted
            error = float((values[place] - wanted).norm() / wanted.norm().clamp(min=1e-6))
            assert error < 1e-3, f"{name}: {error:.1e}"


def require_no_batching_effect(backbone: Backbone) -> None:
    """Compare states and losses of rows in a padded batch with those of each alone."""
    recipes = parse_features("rds,losses", backbone.info)
    rows = tiny_conversations()[5:9]
    together, apart = (
        Featurizer(backbone, recipes, tokens).compute(rows).columns for tokens in (4096, 1)
    )
    for column in ("rds", "nll", "nll_alone"):
        error = np.linalg.norm(together[column] - apart[column]) / np.linalg.norm(apart[column])
        assert error < 1e-3, f"{column}: {error:.1e}"


def page(lines: dict[str, str]) -> str:
    """The document, from a line of the table for each architecture."""
    from transformers import __version__

    return (
        "# Architectures\n\n"
        "What `coresetdb init --features fast` makes of a tiny random model of each architecture, "
        f"with\ntransformers {__version__}. Where features are made, the gradient of every weight "
        "was compared with autograd's,\nand rows in a padded batch with the same rows alone.\n"
        "`python tests/helpers/architectures.py --update` writes this page.\n\n"
        "| type | class | left out of `fast` | what `init` says |\n|---|---|---|---|\n"
        + "\n".join(lines.values())
        + "\n"
    )


def line_of(kind: str, folder: Path) -> str:
    """The line of an architecture."""
    name, features, said = said_by_init(kind, folder)
    names = [spec.representation for spec in parse_specs("fast")]
    made = {feature.partition(":")[0] for feature in features}
    left_out = ", ".join(other for other in names if other not in made) if made else "refused"
    return f"| {kind} | {name} | {left_out or '-'} | {said or '-'} |"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = [word for word in sys.argv[1:] if not word.startswith("-")] or list(ARCHITECTURES)
    made: dict[str, str] = {}
    for kind in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                made[kind] = line_of(kind, Path(scratch))
            except Exception as error:
                made[kind] = f"| {kind} | ERROR {type(error).__name__} {error} |"
        print(made[kind], flush=True)
    if "--update" in sys.argv:
        PAGE.write_text(page(made), encoding="utf-8")
