"""Code that comes with a model is never run, whatever is answered on a terminal."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tiny_models import tiny_folder

import coresetdb
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig, describe
from coresetdb.ingest.representations.embed import encoder_identity
from coresetdb.schemas.errors import BackboneError

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from {package} import {base}
class Own({base}):
    model_type = "its_own"
"""


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(tiny_folder(), tmp_path / "model")


@pytest.fixture
def marker(tmp_path, monkeypatch) -> Path:
    """A file that code of a model would make; whoever is asked says yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "the_code_has_run"


def with_code(folder: Path, marker: Path, package="transformers", base="PreTrainedConfig") -> Path:
    code = CODE.format(marker=str(marker), package=package, base=base)
    (folder / "own.py").write_text(code)
    return folder


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def own_model(folder: Path, marker: Path, **changes) -> Path:
    code = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoModel": "own.Own"}
    edit(with_code(folder, marker) / "config.json", auto_map=code, **changes)
    return folder


def own_tokenizer(folder: Path, marker: Path) -> Path:
    code = {"AutoTokenizer": [None, "own.Own"]}
    settings = {"auto_map": code, "tokenizer_class": "Own"}
    with_code(folder, marker, base="PreTrainedTokenizerFast")
    edit(folder / "tokenizer_config.json", **settings)
    edit(folder / "config.json", model_type="no_tokenizer_of_transformers")
    return folder


def test_a_model_that_needs_its_code_is_refused_at_init(folder, marker, tmp_path):
    own_model(folder, marker, model_type="its_own")
    with pytest.raises(BackboneError, match=r"code of its own \(auto_map\).*never runs.*'its_own'"):
        coresetdb.create(str(tmp_path / "store"), backbone=str(folder))
    assert not marker.exists() and not (tmp_path / "store").exists()


def test_nobody_is_asked_on_a_terminal(folder, marker, tmp_path):
    own_model(folder, marker, model_type="its_own")
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n" * 5)
    code = "import sys; from coresetdb.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, "init", str(tmp_path / "store"), "--backbone", str(folder)],
        stdin=theirs,
        capture_output=True,
        text=True,
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 1 and "never runs" in done.stderr and "[y/N]" not in done.stdout
    assert not marker.exists() and not (tmp_path / "store").exists()


def test_a_tokenizer_that_needs_its_code_is_refused(folder, marker):
    own_tokenizer(folder, marker)
    with pytest.raises(BackboneError, match=r"the tokenizer comes with code of its own"):
        describe(BackboneConfig(str(folder)))
    assert not marker.exists()


@pytest.mark.parametrize("make", [own_model, own_tokenizer])
def test_loading_does_not_run_it_either(folder, marker, monkeypatch, make):
    make(folder, marker)
    edit(folder / "config.json", model_type="its_own")
    monkeypatch.setattr("coresetdb.ingest.models.describe.require_native", lambda *_: None)
    with pytest.raises(BackboneError, match="cannot be loaded"):
        Backbone.load(BackboneConfig(str(folder), "cpu", "float32"))
    assert not marker.exists()


def test_a_model_that_transformers_knows_loads_without_its_code(folder, marker):
    own_model(folder, marker)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "own.Own"]})
    backbone = Backbone.load(BackboneConfig(str(folder), "cpu", "float32"))
    assert type(backbone.model).__module__.startswith("transformers.models.llama")
    assert not marker.exists()


@pytest.fixture
def encoder(tmp_path):
    pytest.importorskip("sentence_transformers", reason="the extra [embed] is not installed")
    from helpers.tiny_encoders import tiny_encoder

    return shutil.copytree(tiny_encoder(), tmp_path / "encoder")


def refused_at_init(encoder: Path, store: Path) -> str:
    with pytest.raises(BackboneError, match="never runs") as told:
        coresetdb.create(str(store), backbone=str(tiny_folder()), features=f"embed:model={encoder}")
    assert not store.exists()
    return str(told.value)


def test_an_encoder_that_needs_its_code_is_refused_at_init(encoder, marker, tmp_path):
    own_model(encoder, marker, model_type="its_own")
    assert "auto_map" in refused_at_init(encoder, tmp_path / "store")
    assert not marker.exists()


def test_an_encoder_with_a_module_of_its_own_is_refused_at_init(encoder, marker, tmp_path):
    with_code(encoder, marker, "sentence_transformers.models", "Normalize")
    listed = json.loads((encoder / "modules.json").read_text())
    listed[-1]["type"] = "own.Normalize"  # the name alone says nothing
    (encoder / "modules.json").write_text(json.dumps(listed))
    assert "own.Normalize" in refused_at_init(encoder, tmp_path / "store")
    assert not marker.exists()


def test_loading_an_encoder_does_not_run_its_code(encoder, marker):
    from coresetdb.ingest.representations.embed import _encoder

    own_model(encoder, marker, model_type="its_own")
    with pytest.raises(BackboneError, match="cannot be loaded"):
        _encoder(str(encoder), "cpu")
    assert not marker.exists()


def test_an_encoder_that_transformers_knows_loads_without_its_code(encoder, marker):
    from coresetdb.ingest.representations.embed import _encoder

    own_model(encoder, marker)
    encoder_identity(encoder)
    assert _encoder(str(encoder), "cpu").encode("a text").shape == (24,)
    assert not marker.exists()
