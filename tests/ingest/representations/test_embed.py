"""EMBED: any sentence-transformers model, told from its files, next to the backbone's features."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from helpers.optional import needs
from helpers.tiny_encoders import tiny_encoder
from helpers.tiny_models import tiny_backbone, tiny_conversations

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.representations import embed
from coresetdb.ingest.representations.embed import (
    QUERY,
    encoder_folder,
    encoder_identity,
    encoder_width,
    prompt_and_label,
)
from coresetdb.ingest.representations.registry import feature_spec, parse_features
from coresetdb.schemas.errors import BackboneError
from coresetdb.schemas.instruction import Instruction, Message

pytestmark = needs("sentence_transformers", "pip install 'coresetdb[embed]'")


def features(folder, rows, of="pool", **settings):
    backbone = tiny_backbone()
    recipes = parse_features(f"embed:model={folder}", backbone.info)
    return Featurizer(backbone, recipes, **settings).compute(rows, of=of).columns


def by_hand(folder, text: str) -> np.ndarray:
    """Mean over the tokens of the encoder's states, dense layer with tanh, unit length."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    kind = T5EncoderModel if "t5" in str(folder) else AutoModel
    model = kind.from_pretrained(folder).eval()
    ids = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
    with torch.inference_mode():
        states = model(ids["input_ids"], attention_mask=ids["attention_mask"]).last_hidden_state[0]
        pooled = sum(states) / len(states)
        if (folder / "2_Dense").is_dir():
            dense = load_file(folder / "2_Dense" / "model.safetensors")
            pooled = torch.tanh(dense["linear.weight"] @ pooled + dense["linear.bias"])
    return (pooled / pooled.norm()).numpy()


@pytest.mark.parametrize(("kind", "dense"), [("bert", True), ("t5", False)])
def test_it_is_the_encoders_vector_of_the_text(kind, dense):
    folder = tiny_encoder(kind, dense)
    rows = tiny_conversations()
    pool, target = features(folder, rows)["embed"], features(folder, rows, of="target")["embed"]
    assert pool.shape == (len(rows), 24 if dense else 32)
    for place, row in enumerate(rows):
        prompt, label = prompt_and_label(row)
        for got, text in (
            (pool[place], f"{prompt} {label}".strip()),
            (target[place], QUERY.format(prompt=prompt, label=label).strip()),
        ):
            assert np.linalg.norm(got - by_hand(folder, text)) < 1e-4


def test_batches_and_order_do_not_matter(monkeypatch):
    folder, rows = tiny_encoder(), tiny_conversations() * 3
    together = features(folder, rows)["embed"]
    monkeypatch.setattr(embed, "BATCH_CPU", 1)
    alone = features(folder, rows[::-1])["embed"][::-1]
    assert np.abs(together - alone).max() < 1e-5


def test_which_text_is_embedded():
    say = Instruction.from_turns
    assert prompt_and_label(say(("user", " a "), ("assistant", "b"))) == ("a", "b")
    turns = say(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    assert prompt_and_label(turns) == ("s\na\nb\nc", "")
    call = Message("assistant", "", tool_calls='[{"name":"f"}]')
    assert prompt_and_label(Instruction((Message("user", "a"), call)))[1] == '[{"name":"f"}]'


def test_a_row_without_text_says_so():
    blank = Instruction.from_turns(("user", " "), ("assistant", ""))
    columns = features(tiny_encoder(), [*tiny_conversations()[:2], blank])
    assert np.isnan(columns["embed"][2]).all() and np.isfinite(columns["embed"][:2]).all()
    assert columns["embed_reason"].tolist() == [None, None, embed.NO_TEXT]


@pytest.mark.parametrize("names", ["embed", "embed,rds", "losses,embed"])
def test_progress_counts_rows_that_no_pass_sees(names):
    backbone, rows = tiny_backbone(), tiny_conversations()
    told: list[tuple[int, int]] = []
    text = names.replace("embed", f"embed:model={tiny_encoder()}")
    featurizer = Featurizer(backbone, parse_features(text, backbone.info))
    table = featurizer.featurize(rows, lambda count, tokens: told.append((count, tokens)))
    assert sum(count for count, _ in told) == len(rows)
    assert sum(tokens for _, tokens in told) == sum(table["tokens"].to_pylist())


def test_width_and_identity_are_told_by_the_files(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_encoder(), folder)
    assert encoder_width(folder) == 24
    same = encoder_identity(folder)
    assert same == encoder_identity(tiny_encoder())
    # As other versions of the package wrote it, and with files that change no number.
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        kind = module["type"].rpartition(".")[2]
        module["type"] = f"sentence_transformers.models.{kind}"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "README.md").write_text("nothing")
    assert encoder_identity(folder) == same and encoder_width(folder) == 24
    for name in ("2_Dense/model.safetensors", "model.safetensors", "tokenizer.json"):
        changed = tmp_path / name.replace("/", "-")
        shutil.copytree(folder, changed)
        data = (changed / name).read_bytes()
        (changed / name).write_bytes(data[:-3] + b"   ")
        assert encoder_identity(changed) != same
    pooling = folder / "1_Pooling" / "config.json"
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    pooling.write_text(json.dumps({"word_embedding_dimension": 32, **flags}))
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    assert encoder_width(folder) == 64


def test_the_recipe_depends_on_the_encoder_alone():
    text = f"embed:model={tiny_encoder()}"
    (one,) = parse_features(text, tiny_backbone("llama").info)
    (other,) = parse_features(text, tiny_backbone("gpt2").info)
    assert one.fingerprint == other.fingerprint
    (t5,) = parse_features(f"embed:model={tiny_encoder('t5')}", tiny_backbone().info)
    assert t5.fingerprint != one.fingerprint


def test_a_folder_is_kept_by_its_whole_path(monkeypatch):
    monkeypatch.chdir(tiny_encoder().parent)
    assert feature_spec("embed", {"model": "model"}).options == {
        "model": str(tiny_encoder().resolve()),
        "stored": "float16",
    }


def test_what_cannot_be_used_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, complaint in (
        ("sentence-transformers/nosuch", r"not in its cache.*hf download sentence-transformers/n"),
        (str(tmp_path), r"has no modules\.json"),
    ):
        with pytest.raises(BackboneError, match=complaint):
            encoder_folder(name)
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "modules.json").write_text('[{"type": "sentence_transformers.models.CLIP", "path": ""}]')
    with pytest.raises(BackboneError, match=r"a kind that is not known here \(clip\)"):
        encoder_width(odd)
    with pytest.raises(BackboneError, match="no weights"):
        encoder_identity(odd)
    monkeypatch.setattr(embed, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r"pip install 'coresetdb\[embed\]'"):
        parse_features(f"embed:model={tiny_encoder()}", tiny_backbone().info)
