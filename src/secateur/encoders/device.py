"""Where an encoder runs, and in which precision."""

import torch

from secateur.config.choices import DEVICES
from secateur.config.errors import InputError


def pick_device(wanted: str) -> str:
    """Return the device that torch computes on. Raises InputError: no such device, or torch sees none."""
    if wanted not in DEVICES:
        raise InputError(f"device: {wanted!r} is none of {', '.join(DEVICES)}")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda asked for, but torch sees no CUDA device")
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def computing_in(precision: str, device: torch.device) -> torch.autocast:
    """Return a context in which matrix products are computed in bfloat16, if `precision` comes to bf16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=pick_precision(precision, device) == "bf16")


def pick_precision(wanted: str, device: torch.device) -> str:
    """Return float32 or bf16; `auto` is bf16 where the device has instructions for it."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "float32"
