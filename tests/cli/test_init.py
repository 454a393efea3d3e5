"""`coresetdb init` says what its backbone is like, and what is wrong with it in one sentence."""

from __future__ import annotations

import json

import pytest
from helpers.tiny_models import POSITIONS, TEMPLATE, save_tiny_model, tiny_folder

from coresetdb.cli.main import main


def init(tmp_path, capsys, *words: str) -> tuple[int, str]:
    """Exit code and stderr; nothing may stand on stdout."""
    with pytest.raises(SystemExit) as end:
        main(["init", str(tmp_path / "pool"), "--device", "cpu", *words])
    out, err = capsys.readouterr()
    assert out == ""
    return int(end.value.code or 0), err


def test_notices_are_said(tmp_path, capsys):
    first = "~ ('first' if loop.last and message.role == 'assistant' else '') ~ message.content"
    template = TEMPLATE.replace("~ message.content", first)
    for name, given, notice in (
        ("a", template, "renders earlier answers differently"),
        ("b", None, "no chat template"),
    ):
        folder = save_tiny_model(tmp_path / name, template=given)
        code, err = init(tmp_path / name, capsys, "--backbone", str(folder))
        assert code == 0 and err.splitlines()[0].startswith(str(folder)) and notice in err


def test_nothing_is_said_of_an_ordinary_model(tmp_path, capsys):
    code, err = init(tmp_path, capsys, "--backbone", "builtin")
    assert code == 0 and len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["--backbone", "nosuchname"], 1, "cannot be reached and the model is not in its cache"),
        (["--backbone", "no--such/name"], 2, "no name the Hugging Face hub allows"),
        (["--backbone", "./nosuchfolder"], 2, "no such folder"),
        (["--backbone", "{encoder}"], 1, "BertModel is not a causal language model"),
        (["--backbone", "{tiny}", "--max-length", "9999"], 2, f"above the {POSITIONS} positions"),
        (["--max-length", "1"], 2, "at least 2 tokens"),
        (["--dtype", "float16"], 2, "choose one of auto, float32, bfloat16"),
        (["--features", "rds,nonsense"], 2, "unknown feature 'nonsense'"),
    ],
)
def test_faults_are_sentences(tmp_path, capsys, words, code, complaint):
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    settings = {"architectures": ["BertModel"], "model_type": "bert"}
    (encoder / "config.json").write_text(json.dumps(settings))
    given = [word.format(encoder=encoder, tiny=tiny_folder()) for word in words]
    ended, err = init(tmp_path, capsys, *given)
    assert ended == code
    assert complaint in err and err.startswith("Error: ") and len(err.splitlines()) == 1
    assert not (tmp_path / "pool").exists()
