"""A model that is spread over all devices of a machine, by accelerate: `--device auto-map`.

Layers stand on the accelerators as far as these have room, the rest in the memory of the CPU and
then on disk, and accelerate moves states between them. Weights in the last two are moved to where
they are needed for every forward and dropped after it ("moved" below), so that a backward finds
none; adapters stand on one device.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...schemas.errors import BackboneError
from ...schemas.plain_text import count_of

if TYPE_CHECKING:
    import torch

AUTO_MAP = "auto-map"

_MOVED_FROM = ("cpu", "disk")


def room_of_devices() -> dict[int | str, int | str] | None:
    """Return what a model may take of each device; None has accelerate measure what is free."""
    return None


def spreading(folder: Path) -> dict[str, Any]:
    """Return what `from_pretrained` is told to spread a model.

    Args:
        folder: for weights that are neither held nor read from where they are (other files than
            safetensors).
    """
    return {"device_map": "auto", "max_memory": room_of_devices(), "offload_folder": str(folder)}


def offload_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for weights on disk, gone when nobody holds it any more."""
    return tempfile.TemporaryDirectory(prefix="coresetdb-weights-", ignore_cleanup_errors=True)


def main_device(model: Any) -> torch.device:
    """Return the device that batches are put on: of a spread model its first accelerator."""
    import torch

    accelerators = [place for place in _places(model).values() if place not in _MOVED_FROM]
    if accelerators:
        return torch.device(accelerators[0])
    return torch.device("cpu") if _places(model) else model.device


def moved_parts(model: Any) -> list[str]:
    """Return the names of the parts whose weights are moved for every forward."""
    places = _places(model)
    on_cpu = main_device(model).type == "cpu"  # whose memory is where its weights stay, then
    return [
        name for name, place in places.items() if place == "disk" or (place == "cpu" and not on_cpu)
    ]


def require_backward(model: Any) -> None:
    """Refuse gradients by weights that are gone when the backward needs them.

    Raises:
        BackboneError: names one of the parts.
    """
    if moved := moved_parts(model):
        parts = count_of(len(moved), "part")
        raise BackboneError(
            f"{model.config.model_type}: gradients need weights that stay in place, and "
            f"{AUTO_MAP} moves {parts} of the model in for every forward (such as {moved[0]}). Use "
            "features without gradients, or a machine whose accelerators hold the whole model"
        )


def require_one_device(model: Any) -> None:
    """Refuse adapters, which stand on one device, for a model that stands on several.

    Raises:
        BackboneError: it does.
    """
    if len(set(_places(model).values())) > 1 or moved_parts(model):
        raise BackboneError(
            f"{model.config.model_type}: an adapter stands on one device, and {AUTO_MAP} spread "
            "the model over several. Use features without a warm-up, or a device that holds the "
            "whole model"
        )


def _places(model: Any) -> dict[str, Any]:
    return getattr(model, "hf_device_map", None) or {}
