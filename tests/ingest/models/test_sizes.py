"""Sizes of every family, and what is no causal language model."""

from __future__ import annotations

import json

import pytest
from helpers.tiny_models import tiny_folder

from coresetdb.ingest.models.describe import BackboneConfig, describe
from coresetdb.ingest.models.sizes import Sizes, sizes_of
from coresetdb.schemas.errors import BackboneError


def sizes(tmp_path, **settings) -> Sizes:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return sizes_of(tmp_path, settings, "model")


def test_both_ways_agree_for_every_family(tmp_path):
    """A flat file is read as it is where the class would give the same, whatever the family."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    usual = ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")
    compared = 0
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = CONFIG_MAPPING[kind]()
        except Exception:  # some classes have no defaults that fit together
            continue
        settings = config.to_dict() | {"architectures": ["SomeForCausalLM"]}
        nested = any(part in settings for part in ("text_config", "decoder", "generator"))
        if nested or not all(isinstance(settings.get(name), int) for name in usual):
            continue
        if settings.get("is_encoder_decoder"):
            continue
        text = config.get_text_config()
        wanted = [getattr(text, name) for name in usual]
        found = sizes_of(tmp_path, settings, kind)
        assert [found.layer_width, found.layers, found.vocabulary, found.positions] == wanted, kind
        compared += 1
    assert compared > 80


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (
            {"model_type": "gpt_neo", "hidden_size": 8, "num_layers": 4, "vocab_size": 9}
            | {"attention_types": [[["global", "local"], 2]], "max_position_embeddings": 77},
            Sizes(8, 8, 4, 9, 77),
        ),
        ({"model_type": "xglm", "d_model": 8, "num_layers": 3}, Sizes(8, 8, 3, 256008, 2048)),
        (
            {"model_type": "nemotron_h", "layers_block_type": ["mlp", "full_attention"]},
            Sizes(4096, 4096, 2, 131072, 4096),
        ),
        ({"model_type": "opt", "word_embed_proj_dim": 512}, Sizes(512, 768, 12, 50272, 2048)),
        ({"model_type": "mpt", "max_seq_len": 99}, Sizes(2048, 2048, 24, 50368, 99)),
        ({"model_type": "mamba", "hidden_size": 8}, Sizes(8, 8, 32, 50280, None)),
        (  # as on the hub: what equals the defaults of the class is left out
            {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}
            | {"text_config": {"model_type": "gemma3_text", "hidden_size": 2560}},
            Sizes(2560, 2560, 26, 262208, 131072),
        ),
        ({"model_type": "gpt2", "n_embd": 8, "n_layer": 3}, Sizes(8, 8, 3, 50257, 1024)),
    ],
)
def test_sizes_by_the_class(tmp_path, settings, wanted):
    assert sizes(tmp_path, **settings) == wanted


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model_type": "t5"}, "of type 't5' is not a causal language model but an encoder with"),
        (
            {"model_type": "bart", "architectures": ["BartForConditionalGeneration"]},
            "BartForConditionalGeneration is not a causal language model but an encoder with a",
        ),
        (
            {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
            "BertForMaskedLM is not a causal language model",
        ),
        (
            {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]},
            "Qwen2VLForConditionalGeneration is not a causal language model",
        ),
        ({"model_type": "vit"}, "has no causal language model for the type 'vit'"),
        (
            {"model_type": "of_next_year", "architectures": ["OfNextYearForCausalLM"]},
            "knows no models of type 'of_next_year'. Install a transformers that does",
        ),
        ({"model_type": "llama", "hidden_size": "wide"}, "cannot read its config.json"),
    ],
)
def test_what_is_refused(tmp_path, settings, complaint):
    with pytest.raises(BackboneError, match=f"^model: .*{complaint}"):
        sizes(tmp_path, **settings)


def test_the_files_of_a_usual_model_say_enough():
    info = describe(BackboneConfig(str(tiny_folder())))
    assert (info.hidden_size, info.layer_width) == (32, 32)
