"""coresetdb: a database for choosing which instruction data to fine-tune on."""

__version__ = "0.1.0"
