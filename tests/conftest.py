"""What all tests share: no hub, one thread a process, the tiny backbone, the real corpora."""

from __future__ import annotations

import gc
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.warm_processes import WarmParent
from hypothesis import settings

# The width that readline finds and xdist's processes inherit; tables in a pipe would heed it.
os.environ.pop("COLUMNS", None)

# Stores are thousands of small files, and each is waited for: in memory, where there is room.
IN_MEMORY, ROOM_BYTES = Path("/dev/shm"), 8 << 30
if os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free >= ROOM_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))

# torch, transformers and thousands of tests stay: looking through them for garbage takes seconds.
gc.set_threshold(50_000, 20, 20)

# Nothing is timed in tests, not even by Hypothesis.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LANCE_LOG", "error")

LONG = (
    "evaluation/test_study.py",
    "cli/test_demo.py",
    "docs/test_commands.py",
    "test_older_store.py",
)
"""Files that run for longest, and first: at the end one process would wait for the other's."""

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first; the others stay in their order."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG))


def pytest_collection_finish() -> None:
    """Leave what is there out of the searches for garbage: every training asks for some."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter take everything apart."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real corpora and targets."""
    if not DATA.is_dir():
        pytest.skip("the real corpora (../shared/data) are absent")
    return DATA


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random llama with its tokenizer."""
    from helpers.tiny_models import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root, which is the package."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The address of an S3 server on loopback."""
    moto = pytest.importorskip("moto.server", reason="moto or flask is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket there; the environment holds what reaching it takes."""
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmParent]:
    """Starts processes that have torch loaded."""
    with WarmParent() as parent:
        yield parent
