"""What is differentiated faster than autograd does it, in one block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .attention import WrittenAttention
from .norms import written_norms


@contextmanager
def written_backwards(model: nn.Module) -> Iterator[None]:
    """Inside the block a forward leaves the written backwards of attention and of norms."""
    with WrittenAttention(), written_norms(model):
        yield
