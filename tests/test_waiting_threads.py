"""OpenMP's threads sleep while they wait: settled before torch is loaded, unless the user did."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Reports the variable at the moment torch is first looked for; what follows takes long.
WATCH = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch meets", os.environ.get("OMP_WAIT_POLICY"), file=sys.stderr, flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
"""
MODEL = "from coresetdb.ingest.models.backbone import BackboneConfig, resolve; "
ENTRIES = {
    "create": "import coresetdb; coresetdb.create(sys.argv[1])",
    "command": "from coresetdb.cli.main import main; main(['init', sys.argv[1]])",
    "a room": MODEL + "resolve(BackboneConfig())",
}


def run(code: str, *arguments: str, **settings: str) -> str:
    names = ("OMP_", "GOMP_", "KMP_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(names)} | settings
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("own", [None, "ACTIVE"])
def test_it_is_set_before_torch_is_loaded(entry, own, tmp_path):
    settings = {"OMP_WAIT_POLICY": own} if own else {}
    said = run(WATCH + ENTRIES[entry], str(tmp_path / "pool"), **settings)
    assert f"torch meets {own or 'PASSIVE'}\n" in said


def test_the_openmp_of_torch_follows_it():
    said = run("import coresetdb, torch; torch.ones(9).sum()", OMP_DISPLAY_ENV="true")
    if "OMP_WAIT_POLICY" not in said:
        pytest.skip("the OpenMP of this torch does not tell its settings")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in said or "OMP_WAIT_POLICY='PASSIVE'" in said
