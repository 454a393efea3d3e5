"""The tiny models of `coresetdb.ingest.testing`."""

from coresetdb.ingest.testing import (
    ARCHITECTURES,
    BOS,
    END,
    PAD,
    POSITIONS,
    TEMPLATE,
    VOCABULARY,
    save_tiny_model,
    save_tiny_tokenizer,
    tiny_backbone,
    tiny_config,
    tiny_conversations,
    tiny_folder,
)

__all__ = [
    "ARCHITECTURES",
    "BOS",
    "END",
    "PAD",
    "POSITIONS",
    "TEMPLATE",
    "VOCABULARY",
    "save_tiny_model",
    "save_tiny_tokenizer",
    "tiny_backbone",
    "tiny_config",
    "tiny_conversations",
    "tiny_folder",
]
