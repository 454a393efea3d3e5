"""Loading backbones: identities, caches, what is missing and how it is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.tiny_models import (
    ARCHITECTURES,
    POSITIONS,
    VOCABULARY,
    save_tiny_model,
    tiny_backbone,
    tiny_folder,
)

from coresetdb.ingest.models import model_folder
from coresetdb.ingest.models.backbone import Backbone, resolve
from coresetdb.ingest.models.describe import BackboneConfig, describe
from coresetdb.schemas.errors import BackboneError, UsageError
from coresetdb.schemas.instruction import Instruction


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the tiny llama, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(tiny_folder(), tmp_path / "model")


def edit(path, **changes):
    settings = json.loads(path.read_text())
    for name, value in changes.items():
        settings.pop(name, None)
        if value is not None:
            settings[name] = value
    path.write_text(json.dumps(settings))


def load(folder, **settings) -> Backbone:
    return Backbone.load(BackboneConfig(str(folder), "cpu", "float32", **settings))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_are_read_from_the_files(architecture):
    info = tiny_backbone(architecture).info
    assert info.model_type == architecture
    assert (info.hidden_size, info.layers, info.vocabulary) == (32, 2, VOCABULARY)
    assert info.positions == info.max_length == POSITIONS
    assert info.notices == ()


def test_heads_that_scale_their_logits_are_noticed():
    plain = {name: tiny_backbone(name).plain_head for name in ARCHITECTURES}
    assert plain == {name: name != "cohere" for name in ARCHITECTURES}


@pytest.mark.parametrize("name", ["builtin", "a folder"])
def test_describing_needs_no_torch(folder, name):
    script = (
        "import sys; from coresetdb.ingest.models.describe import BackboneConfig, describe;"
        f"describe(BackboneConfig({(name if name == 'builtin' else str(folder))!r}));"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_identity_follows_what_changes_features(folder, tmp_path):
    def identity(**settings):
        return describe(BackboneConfig(str(folder), **settings)).identity

    first = identity()
    assert first == identity(device="cpu", dtype="bfloat16")
    assert first == describe(BackboneConfig(str(tiny_folder()))).identity  # a copy is the same
    assert identity(max_length=64)["max_length"] == 64
    edit(folder / "config.json", rms_norm_eps=1e-3, transformers_version="0")
    changed = {key for key, value in identity().items() if value != first[key]}
    assert changed == {"config"}
    edit(folder / "tokenizer_config.json", chat_template="{{ messages }}", model_max_length=7)
    changed = {key for key, value in identity().items() if value != first[key]}
    assert changed == {"config", "template"}
    edit(folder / "tokenizer_config.json", bos_token="<|pad|>")
    changed = {key for key, value in identity().items() if value != first[key]}
    assert changed == {"config", "template", "tokenizer"}
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert identity()["weights"] != first["weights"]


def test_weights_are_hashed_once(folder, monkeypatch):
    read: list[str] = []
    hash_file = model_folder.hash_file
    monkeypatch.setattr(
        model_folder, "hash_file", lambda path: read.append(path.name) or hash_file(path)
    )
    config = BackboneConfig(str(folder))
    identity = describe(config).identity
    assert describe(config).identity == identity
    assert read == ["model.safetensors"]
    model_folder.cache_file().write_text("{cut off")
    assert describe(config).identity == identity
    (folder / "model.safetensors").touch()
    assert describe(config).identity == identity
    assert len(read) == 3


def test_hashes_of_files_that_are_gone_are_forgotten(folder, tmp_path):
    gone = shutil.copytree(folder, tmp_path / "gone")
    for place in (gone, folder):
        describe(BackboneConfig(str(place)))
    assert len(json.loads(model_folder.cache_file().read_text())) == 2
    shutil.rmtree(gone)
    weights = folder / "model.safetensors"
    weights.touch()
    describe(BackboneConfig(str(folder)))
    assert list(json.loads(model_folder.cache_file().read_text())) == [str(weights.resolve())]


def test_a_cache_that_cannot_be_written_is_no_fault(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert describe(BackboneConfig(str(folder))).hidden_size == 32


def test_a_missing_template_is_said_and_part_of_the_identity(tmp_path, capfd):
    backbone = load(save_tiny_model(tmp_path / "model", template=None))
    (notice,) = backbone.info.notices
    assert "no chat template" in notice
    assert capfd.readouterr() == ("", "")  # a progress bar may be on the screen
    assert backbone.info.identity["template"].startswith("plain ")
    row = backbone.encode(Instruction.from_turns(("user", "two?"), ("assistant", "three")))
    assert row.response_tokens > 0


def test_the_built_in_proxy_loads():
    backbone = Backbone.load(BackboneConfig("builtin", "cpu", "float32", 64))
    assert backbone.info.notices == () and backbone.plain_head
    row = backbone.encode(
        Instruction.from_turns(("user", "two?"), ("assistant", "three"), ("user", "b"))
    )
    assert row.response_tokens > 1
    states = backbone.states(torch.tensor(row.ids)[None].long(), torch.ones(1, len(row)).bool())
    assert states.hidden.shape == (1, len(row), backbone.info.hidden_size)
    assert torch.isfinite(states.hidden).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_at_the_end_needs_no_mask(architecture, monkeypatch):
    backbone = tiny_backbone(architecture)
    ids = torch.arange(24).view(2, 12) % backbone.info.vocabulary
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    masks = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, attn_mask=None, **settings):
        masks.append(attn_mask)
        return attend(*args, attn_mask=attn_mask, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    together = backbone.states(ids, mask).hidden
    assert masks and all(each is None for each in masks)
    alone = backbone.states(ids[1:, :7], mask[1:, :7]).hidden
    assert torch.allclose(together[1, :7], alone[0], atol=1e-5)
    backbone.states(ids.flip(1), mask.flip(1))
    assert masks[-1] is not None


def test_a_model_that_looks_ahead_is_refused(folder):
    """Its architecture says that it is causal; only running it shows that it is not."""
    edit(folder / "config.json", is_causal=False)
    refused(folder, "LlamaForCausalLM is not a causal language model.*changes with later tokens")


def test_neither_pad_nor_bos_token_is_needed(tmp_path):
    from coresetdb.ingest.featurizer import Featurizer
    from coresetdb.ingest.representations.registry import parse_features

    backbone = load(save_tiny_model(tmp_path / "model", template=None, bos=False, pad=False))
    rows = [Instruction.from_turns(("user", "a" * n), ("assistant", "b")) for n in (1, 9)]
    assert not backbone.encode(rows[0]).has_bos
    recipes = parse_features("rds,losses", backbone.info)
    apart = Featurizer(backbone, recipes, 1).compute(rows).columns
    for side in ("right", "left"):
        together = Featurizer(backbone, recipes, 999, side).compute(rows).columns
        assert np.allclose(together["rds"], apart["rds"], atol=1e-5)
        assert np.allclose(together["ifd"], apart["ifd"], rtol=1e-4)


def test_a_length_above_the_positions_is_refused():
    with pytest.raises(UsageError, match=f"above the {POSITIONS} positions"):
        describe(BackboneConfig(str(tiny_folder("gpt2")), max_length=POSITIONS + 1))
    with pytest.raises(UsageError, match="at least 2"):
        BackboneConfig(max_length=1)


def test_rows_longer_than_the_context_are_cut_to_it():
    backbone = tiny_backbone("gpt2")
    row = backbone.encode(Instruction.from_turns(("user", "sky " * 900), ("assistant", "blue")))
    assert len(row) == POSITIONS and row.truncated and row.response_tokens > 1


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"device": "abacus"}, "choose one of auto, auto-map, cpu"),
        ({"dtype": "float16"}, "choose one of"),
    ],
)
def test_unknown_settings(settings, complaint):
    with pytest.raises(UsageError, match=complaint):
        BackboneConfig(**settings)


def test_auto_is_resolved_once(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    found = resolve(BackboneConfig("model"))
    assert found.device in ("cpu", "cuda", "mps") and found.dtype in ("float32", "bfloat16")
    assert found.name == str(folder)
    assert resolve(found) == found == BackboneConfig(**found.as_dict())
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="'cuda' is not available"):
            resolve(BackboneConfig("model", device="cuda"))


def refused(folder, complaint, name=None):
    with pytest.raises(BackboneError, match=complaint):
        load(name or folder)


def test_what_is_missing_is_named(folder, tmp_path):
    refused(folder, "no such folder", name=str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no config.json")
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    refused(folder, "the tokenizer is missing")
    (tmp_path / "tokenizer.json").rename(folder / "tokenizer.json")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    refused(folder, "no weights")


def test_what_is_broken_is_named(folder):
    weight_file, tokenizer = folder / "model.safetensors", folder / "tokenizer.json"
    whole = weight_file.read_bytes()
    weight_file.write_bytes(whole[:200])
    refused(folder, "the model cannot be loaded")
    weight_file.write_bytes(whole)
    tokenizer.write_text('{"version": "1.0"}')
    refused(folder, "the tokenizer cannot be loaded")
    for text, complaint in (("{", "is not JSON"), ("[1]", "holds no JSON object")):
        for file in ("tokenizer_config.json", "config.json"):
            whole = (folder / file).read_bytes()
            (folder / file).write_text(text)
            refused(folder, f"{file} {complaint}")
            (folder / file).write_bytes(whole)
    (folder / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(BackboneError, match="does not compile"):
        describe(BackboneConfig(str(folder)))


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "LlamaModel", "T5EncoderModel"])
def test_only_causal_language_models(folder, architecture):
    edit(folder / "config.json", architectures=[architecture])
    refused(folder, f"{architecture} is not a causal language model")


def test_an_incomplete_checkpoint_is_refused(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.down_proj.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    refused(folder, "lacks 1 weight ")


def test_code_that_comes_with_a_model_is_never_run(folder):
    edit(
        folder / "config.json",
        model_type="homemade",
        auto_map={
            "AutoConfig": "homemade.HomemadeConfig",
            "AutoModelForCausalLM": "homemade.HomemadeForCausalLM",
        },
        architectures=["HomemadeForCausalLM"],
    )
    (folder / "homemade.py").write_text("raise SystemExit('the code of the model ran')")
    refused(folder, r"code of its own \(auto_map\).*never runs")


def test_a_tokenizer_of_another_model_is_refused(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = state[name][:300].clone()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    edit(folder / "config.json", vocab_size=300)
    refused(folder, "no embedding for")


def test_hub_failures_are_told_apart(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    def failing(error):
        def snapshot_download(*args, **settings):
            raise error

        return snapshot_download

    not_found = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    for error, complaint in (
        (not_found, "no such model on the Hugging Face hub"),
        (HFValidationError("--"), "no name the Hugging Face hub allows"),
        (LocalEntryNotFoundError("no network"), "cannot be reached"),
        (ConnectionError("refused"), "cannot be reached"),
    ):
        monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(error))
        with pytest.raises(BackboneError, match=complaint):
            describe(BackboneConfig("somebody/something"))


def test_a_hub_model_is_used_from_the_folder_it_lands_in(folder, monkeypatch):
    import huggingface_hub

    asked: list[list[str]] = []

    def snapshot_download(name, allow_patterns):
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    info = describe(BackboneConfig("somebody/something"))
    assert info.identity == describe(BackboneConfig(str(folder))).identity
    assert info.name == "somebody/something"
    assert "*.safetensors" in asked[0] and "*.bin" not in asked[0] and len(asked) == 1


def test_weights_in_the_older_format(folder):
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    row = Instruction.from_turns(("user", "two?"), ("assistant", "three"))
    expected = load(folder)
    (folder / "model.safetensors").unlink()
    got = load(folder)
    ids = torch.tensor(got.encode(row).ids.tolist())[None]
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.inference_mode():
        same = torch.equal(got.states(ids, mask).hidden, expected.states(ids, mask).hidden)
    assert same
