"""EMBED of static embeddings: a mean of token vectors, however the model's folder was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.optional import needs
from helpers.tiny_encoders import STATIC_WIDTH, tiny_encoder, tiny_static
from helpers.tiny_models import VOCABULARY, tiny_backbone, tiny_conversations
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.representations import embed
from coresetdb.ingest.representations.embed import (
    encoder_identity,
    encoder_width,
    is_static,
    prompt_and_label,
)
from coresetdb.ingest.representations.registry import parse_features
from coresetdb.schemas.errors import BackboneError
from coresetdb.schemas.instruction import Instruction

pytestmark = needs("sentence_transformers", "pip install 'coresetdb[embed]'")

SAY = Instruction.from_turns


def features(folder, rows, of="pool"):
    backbone = tiny_backbone()
    recipes = parse_features(f"embed:model={folder}", backbone.info)
    return Featurizer(backbone, recipes).compute(rows, of=of).columns


def by_hand(folder: Path, text: str) -> np.ndarray:
    """The mean of the rows of the matrix that the text's tokens name, brought to unit length."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    matrix = load_file(folder / "model.safetensors")["embedding.weight"].astype(np.float64)
    total, ids = np.zeros(matrix.shape[1]), tokenizer.encode(text, add_special_tokens=False).ids
    for token in ids:
        total += matrix[token]
    return total / len(ids) / np.linalg.norm(total / len(ids))


def as_model2vec(folder: Path, to: Path, **further: np.ndarray) -> Path:
    """The same model as model2vec writes it: another name of the matrix, a folder less."""
    to.mkdir()
    shutil.copy(folder / "tokenizer.json", to)
    matrix = load_file(folder / "model.safetensors")["embedding.weight"]
    save_file({"embeddings": matrix, **further}, to / "model.safetensors")
    (to / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    kinds = {"StaticEmbedding": ".", "Normalize": "1_Normalize"}
    listed = [
        {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for idx, (kind, path) in enumerate(kinds.items())
    ]
    (to / "modules.json").write_text(json.dumps(listed))
    return to


def in_a_folder_of_its_own(folder: Path, to: Path) -> Path:
    """The same model as the first versions with static embeddings saved it."""
    inner = to / "0_StaticEmbedding"
    inner.mkdir(parents=True)
    for name in ("tokenizer.json", "model.safetensors"):
        shutil.copy(folder / name, inner)
    kind = "sentence_transformers.models.StaticEmbedding"
    module = {"idx": 0, "name": "0", "path": inner.name, "type": kind}
    (to / "modules.json").write_text(json.dumps([module]))
    return to


@pytest.mark.parametrize("half", [False, True])
def test_it_is_the_mean_of_the_token_vectors(half):
    folder = tiny_static(half=half)
    rows = [*tiny_conversations(), SAY(("user", "the sky " * 500), ("assistant", "blue"))]
    pool, target = features(folder, rows), features(folder, rows, of="target")
    assert pool["embed"].shape == (len(rows), STATIC_WIDTH)
    assert set(pool["embed_reason"]) == set(target["embed_reason"]) == {None}
    for place, row in enumerate(rows):
        wanted = by_hand(folder, " ".join(prompt_and_label(row)).strip())
        for side in (pool, target):  # an instruction before the query would only be mixed in
            assert np.linalg.norm(side["embed"][place] - wanted) < 1e-4


def test_batches_and_order_do_not_matter(monkeypatch):
    rows = tiny_conversations() * 3
    together = features(tiny_static(), rows)["embed"]
    monkeypatch.setattr(embed, "BATCH_STATIC", 1)
    alone = features(tiny_static(), rows[::-1])["embed"][::-1]
    assert np.abs(together - alone).max() < 1e-6


def test_a_text_of_no_known_token_says_so(tmp_path):
    folder = shutil.copytree(tiny_static(), tmp_path / "copy")
    matrix = load_file(folder / "model.safetensors")["embedding.weight"]
    save_file({"embedding.weight": np.zeros_like(matrix)}, folder / "model.safetensors")
    columns = features(folder, tiny_conversations()[:1])
    assert np.isnan(columns["embed"]).all()
    assert columns["embed_reason"].tolist() == ["the vector is zero"]


@pytest.mark.parametrize("written", [as_model2vec, in_a_folder_of_its_own])
def test_it_is_the_same_model_however_it_was_written(tmp_path, written):
    folder, rows = written(tiny_static(), tmp_path / "other"), tiny_conversations()
    assert is_static(folder) and encoder_width(folder) == STATIC_WIDTH
    same, other = (features(each, rows)["embed"] for each in (tiny_static(), folder))
    assert np.abs(same - other).max() < 1e-6


def test_width_is_told_by_the_header_and_identity_by_the_bytes(tmp_path):
    assert encoder_width(tiny_static()) == STATIC_WIDTH
    assert is_static(tiny_static()) and not is_static(tiny_encoder())
    same = encoder_identity(tiny_static())
    folder = shutil.copytree(tiny_static(), tmp_path / "copy")
    assert encoder_identity(folder) == same
    for name in ("model.safetensors", "tokenizer.json"):
        changed = shutil.copytree(folder, tmp_path / f"other-{name}")
        (changed / name).write_bytes((changed / name).read_bytes()[:-3] + b"   ")
        assert encoder_identity(changed) != same


def test_what_cannot_be_used_is_said(tmp_path):
    ids = np.zeros(VOCABULARY, dtype=np.int64)
    quantised = as_model2vec(tiny_static(), tmp_path / "quantised", mapping=ids)
    with pytest.raises(BackboneError, match="keeps its token vectors in parts"):
        encoder_width(quantised)
    folder = shutil.copytree(tiny_static(), tmp_path / "copy")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(BackboneError, match=r"model\.safetensors is damaged"):
        encoder_width(folder)
    file.rename(folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="do not tell how wide"):
        encoder_width(folder)
    sparse = (folder / "modules.json").read_text().replace("StaticE", "SparseStaticE")
    (folder / "modules.json").write_text(sparse)
    with pytest.raises(BackboneError, match=r"not known here \(sparsestaticembedding\)"):
        encoder_width(folder)


def test_a_matrix_of_another_tokenizer_is_told(tmp_path):
    folder = shutil.copytree(tiny_static(), tmp_path / "copy")
    file = next(folder.rglob("model.safetensors"))
    (name, matrix), *rest = load_file(file).items()
    assert not rest
    save_file({name: matrix[:-3].copy()}, file)
    with pytest.raises(BackboneError, match=r"token vectors, but its tokenizer has tokens beyond"):
        features(folder, tiny_conversations())
