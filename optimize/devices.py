"""Where training runs, and in what precision."""

import torch


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_fast_in_half(where: torch.device) -> bool:
    """Whether bfloat16 saves time: on GPUs, and on CPUs with matrix units for it (AMX: half the time)."""
    return where.type == "cuda" or bool(torch.cpu.get_capabilities().get("amx_bf16"))


def precision(where: torch.device, half: bool | None = None) -> torch.autocast:
    """Products in bfloat16, weights and losses in FP32; FP32 alone where that is no slower, unless asked."""
    enabled = is_fast_in_half(where) if half is None else half
    return torch.autocast(where.type, torch.bfloat16, enabled=enabled)
