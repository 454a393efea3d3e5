"""A corpus is named for its data set, never for a shard; two sets are two corpora."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from coresetdb.ingest.readers.dataset_names import corpora_of, corpus_of
from coresetdb.ingest.readers.folders import passed_over_sentences
from coresetdb.ingest.readers.locations import look_up
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_sources

HASH = "e53f048856ff4f594e959d75785d2c2d37b678ee"


@pytest.mark.parametrize(
    ("file", "corpus"),
    [
        ("/x/pools/alpaca_52k.json.gz", "alpaca_52k"),
        ("/x/my.set.jsonl.XZ", "my.set"),
        ("/x/self_instruct_seed_175.jsonl", "self_instruct_seed_175"),
        ("/x/alpaca_train.json", "alpaca_train"),
        ("/x/mine.lance", "mine"),
        ("/x/chat/data/train-00000-of-00001.parquet", "chat"),
        ("/x/chat/data/train-00001-of-00002-6ef3991c06080e14.parquet", "chat"),
        ("/x/chat/data/test-00000-of-00001.parquet", "chat/test"),
        ("/x/chat/data/sft-00000-of-00002.parquet", "chat/sft"),
        ("/x/chat/default/train/0000.parquet", "chat"),
        ("/x/chat/default/validation/0000.parquet", "chat/validation"),
        ("/x/chat/train.jsonl.gz", "chat"),
        ("/x/chat/test.jsonl", "chat/test"),
        ("/x/chat/data.json", "chat"),
        ("/x/chat/part-00000", "chat"),
        ("/x/chat/part-00003-1b2c3d4e-0000-1111-2222-333344445555-c000.snappy.parquet", "chat"),
        ("/x/chat/shard_12.jsonl", "chat"),
        ("/x/chat/0007.parquet", "chat"),
        ("/x/alpaca-00001-of-00004.jsonl", "alpaca"),
        ("/x/saved/train", "saved"),
        ("/x/saved/test", "saved/test"),
        ("/train.jsonl", "train"),
        ("/data/default/test-00000-of-00001.parquet", "test"),
        (str(Path.home() / "data" / "train.jsonl"), "train"),
        ("hf://datasets/tatsu-lab/alpaca/data/train-00000-of-00001.parquet", "alpaca"),
        ("hf://datasets/openai/gsm8k@main/main/train-00000-of-00001.parquet", "gsm8k"),
        ("hf://datasets/openai/gsm8k/socratic/test-00000-of-00001.parquet", "gsm8k/socratic/test"),
        ("hf://datasets/a/chat/data/train_sft-00000-of-00003.parquet", "chat/train_sft"),
        ("hf://datasets/databricks/dolly/databricks-dolly-15k.jsonl", "databricks-dolly-15k"),
        (f"/h/hub/datasets--openai--gsm8k/snapshots/{HASH}/main/train.parquet", "gsm8k"),
        (f"/h/hub/datasets--squad/snapshots/{HASH}/train.parquet", "squad"),
        (f"/h/datasets/openai___gsm8k/socratic/0.0.0/{HASH}", "gsm8k/socratic"),
        ("s3://bucket/chat/train.jsonl?region=x", "chat"),
        ("s3://bucket/a.jsonl", "a"),
        ("-", "stdin"),
        ("<list>", "memory"),
    ],
)  # fmt: skip
def test_name(file: str, corpus: str) -> None:
    assert corpus_of(file) == corpus


def test_a_card_marks_the_root_of_a_repository(tmp_path: Path) -> None:
    repository = tmp_path / "gsm8k"
    for config in ("main", "socratic"):
        (repository / config).mkdir(parents=True)
    (repository / "README.md").write_text("---\nlicense: mit\n---\n")
    names = [
        corpus_of(str(repository / config / f"{split}-00000-of-00001.parquet"))
        for config in ("main", "socratic")
        for split in ("train", "test")
    ]
    assert names == ["gsm8k", "gsm8k/test", "gsm8k/socratic", "gsm8k/socratic/test"]
    (repository / "README.md").write_text("# Notes\n")
    assert corpus_of(str(repository / "socratic" / "train.jsonl")) == "socratic"


@pytest.mark.parametrize(
    ("files", "corpora"),
    [
        (["/x/a/chat/train.jsonl", "/x/b/chat/train.jsonl"], ["a/chat", "b/chat"]),
        (["/x/a/chat/v1/train.jsonl", "/x/b/chat/v1/train.jsonl"], ["a/chat/v1", "b/chat/v1"]),
        (["/x/en/chat.jsonl", "/x/de/chat.jsonl", "/x/en/qa.jsonl"], ["en/chat", "de/chat", "qa"]),
        (["/x/chat/data/train-0-of-1.parquet", "/x/chat/main/train/0.parquet"], ["chat", "chat"]),
        (["/x/a-00000-of-00002.jsonl", "/x/a-00001-of-00002.jsonl"], ["a", "a"]),
        (["/chat.jsonl", "/x/chat.jsonl"], ["chat", "x/chat"]),
        (["hf://datasets/a/chat/0.jsonl", "hf://datasets/b/chat/0.jsonl"], ["a/chat", "b/chat"]),
        (["hf://datasets/a/c/0.jsonl", "hf://datasets/a/c/test.jsonl"], ["c", "c/test"]),
    ],
)  # fmt: skip
def test_sets_of_one_name_are_told_apart(files: list[str], corpora: list[str]) -> None:
    assert list(corpora_of(files).values()) == corpora


ROWS = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(6)]


def corpora(*sources: Path) -> dict[str, int]:
    """Corpus -> its records."""
    counts: dict[str, int] = {}
    for source in open_sources([str(path) for path in sources], ReadOptions()).sources():
        counts[source.corpus] = counts.get(source.corpus, 0) + len(list(source))
    return counts


def test_what_datasets_writes(tmp_path: Path) -> None:
    train = datasets.Dataset.from_list(ROWS[:4])
    both = datasets.DatasetDict({"train": train, "test": datasets.Dataset.from_list(ROWS[4:])})
    train.save_to_disk(str(tmp_path / "alone"), num_shards=2)
    both.save_to_disk(str(tmp_path / "both"))
    for name in ("one", "two"):
        (tmp_path / name / "data").mkdir(parents=True)
        for index in range(2):
            shard = train.shard(2, index)
            shard.to_parquet(str(tmp_path / name / "data" / f"train-0000{index}-of-00002.parquet"))
    assert corpora(tmp_path / "alone") == {"alone": 4}
    assert corpora(tmp_path / "both") == {"both": 4, "both/test": 2}
    assert corpora(tmp_path / "one", tmp_path / "two") == {"one": 4, "two": 4}
    assert corpora(tmp_path) == {"alone": 4, "both": 4, "both/test": 2, "one": 4, "two": 4}


def test_what_is_passed_over_is_said(tmp_path: Path) -> None:
    for name in (
        "a.jsonl",
        "b.JSONLINES",
        "part-00000",
        "README.md",
        "LICENSE",
        "dataset_infos.json",
        "a.jsonl.manifest.json",
        "cache-0a1b.arrow",
        "c.jsonl.tmp",
        "d.lock",
        ".gitattributes",
        ".cache/x.jsonl",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        is_data = name in ("a.jsonl", "b.JSONLINES", "part-00000")
        path.write_text(json.dumps(ROWS[0]) if is_data else "x")
    found = look_up([str(tmp_path)])
    assert [Path(file).name for file in found.files] == ["a.jsonl", "b.JSONLINES", "part-00000"]
    assert sorted(passed_over_sentences(found.passed_over)) == [
        "passed over 1 file, a cache of datasets: cache-0a1b.arrow",
        "passed over 2 files, describes other files: a.jsonl.manifest.json, dataset_infos.json",
        "passed over 2 files, hidden: .cache, .gitattributes",
        "passed over 2 files, no known ending (name a file to read it whatever its name): "
        "LICENSE, README.md",
        "passed over 2 files, unfinished, or a lock: c.jsonl.tmp, d.lock",
    ]
    globbed = look_up([str(tmp_path / "*")])
    assert list(globbed.files) == list(found.files)
    by_a_shell = look_up([str(path) for path in sorted(tmp_path.iterdir()) if path.is_file()])
    assert "dataset_infos.json" not in {Path(file).name for file in by_a_shell.files}
    (alone,) = look_up([str(tmp_path / "dataset_infos.json")]).files
    assert alone.endswith("dataset_infos.json"), "a file that is named alone is read"


def test_a_folder_without_data_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("x")
    from coresetdb.schemas.errors import NoSuchFileError

    with pytest.raises(NoSuchFileError, match=r"nothing to read was found; .*README\.md"):
        look_up([str(tmp_path)])


def test_a_cache_of_datasets_and_a_folder_of_llamafactory(tmp_path: Path) -> None:
    """Both have a dataset_info.json; only the first makes its Arrow files one source."""
    table = datasets.Dataset.from_list(ROWS[:2])
    table.save_to_disk(str(tmp_path / "source"))
    arrow = next((tmp_path / "source").glob("*.arrow")).read_bytes()
    cached, factory = tmp_path / "cached", tmp_path / "factory"
    for folder, info in (
        (cached, {"builder_name": "json"}),
        (factory, {"a": {"file_name": "a.json"}}),
    ):
        folder.mkdir()
        (folder / "dataset_info.json").write_text(json.dumps(info))
        (folder / "chat-train.arrow").write_bytes(arrow)
        (folder / "cache-12.arrow").write_bytes(arrow)
        (folder / "a.json").write_text(json.dumps(ROWS[2:]))
    assert corpora(cached) == {"cached": 2, "a": 4}
    assert corpora(factory) == {"chat-train": 2, "a": 4}


def test_a_damaged_state_is_that_folders_fault(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "state.json").write_text("[]")
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    opened = open_sources([str(tmp_path)], ReadOptions())
    assert [source.corpus for source in opened.sources()] == ["a"]
    assert [error.file for error in opened.unreadable] == [str(tmp_path / "saved")]
