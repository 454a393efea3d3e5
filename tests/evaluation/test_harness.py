"""Tasks of lm-evaluation-harness over local files, with the model in memory."""

import pytest
from helpers.files import write_jsonl
from helpers.optional import needs

from coresetdb.evaluation.harness import measure_tasks
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.schemas.errors import UsageError

pytestmark = needs("lm_eval", "pip install 'coresetdb[evaluate]'")

TASK = """
task: toy_words
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{{{right}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"question": f"Is {n} a number?", "right": n % 2} for n in range(6)]
    write_jsonl(folder / "words.jsonl", rows)
    (folder / "toy_words.yaml").write_text(TASK.format(data=folder / "words.jsonl"))
    return folder


def test_every_document_is_measured_offline(tiny_llama, tasks):
    backbone = Backbone.load(BackboneConfig(str(tiny_llama), dtype="float32"))
    values = measure_tasks(backbone, ["toy_words"], str(tasks))
    assert set(values) == {"toy_words:acc"}
    assert sorted(values["toy_words:acc"]) == [str(n) for n in range(6)]
    assert set(values["toy_words:acc"].values()) <= {0.0, 1.0}


def test_an_unknown_task_is_told(tiny_llama, tasks, monkeypatch):
    import lm_eval.tasks

    class OnlyTheFolder(lm_eval.tasks.TaskManager):  # indexing the harness's own takes a minute
        def __init__(self, include_path, include_defaults):
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", OnlyTheFolder)
    backbone = Backbone.load(BackboneConfig(str(tiny_llama), dtype="float32"))
    with pytest.raises(UsageError, match="does not know it"):
        measure_tasks(backbone, ["no_such_task"], str(tasks))
