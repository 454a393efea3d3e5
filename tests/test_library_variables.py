"""No variable is new to the environment once libraries have threads that read it."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os
import coresetdb
before = set(os.environ)
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
Backbone.load(BackboneConfig("builtin"))
import torch._dynamo
import torch._inductor.runtime.cache_dir_utils as cache
cache.cache_dir()
print(*sorted(set(os.environ) - before))
print(os.environ["TORCHINDUCTOR_CACHE_DIR"] == os.path.abspath(cache.default_cache_dir()))
"""
SET = (
    "OMP_WAIT_POLICY",
    "LANCE_LOG",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
    "LRU_CACHE_CAPACITY",
    "TORCHINDUCTOR_CACHE_DIR",
)


def test_a_model_is_loaded_without_a_new_variable():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={name: value for name, value in os.environ.items() if name not in SET},
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["", "True"]


@pytest.mark.parametrize("name", SET)
def test_a_value_of_the_user_stays(monkeypatch, name):
    from coresetdb.schemas.library_variables import set_library_variables

    for each in SET:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "/own")
    set_library_variables()
    assert os.environ[name] == "/own"
    assert all(os.environ[each] for each in SET)
