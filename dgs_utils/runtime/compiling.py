"""Whether a network is compiled (`torch.compile`) before it is used: one switch, with one meaning in every stage."""

import torch

SWITCH = ("auto", "on", "off")


def compiles(switch: str, device: torch.device, calls: int, least: int) -> bool:
    """Return whether to compile a network first.

    Args:
        switch: "on", "off", or "auto", which compiles where what is saved on the calls ahead outweighs the compiling.
        device: where the network runs.
        calls: evaluations, or steps of training, ahead.
        least: from how many on compiling pays on a GPU; on a CPU "auto" never compiles.

    Raises:
        ValueError: another switch.
    """
    if switch not in SWITCH:
        raise ValueError(f"compile is {switch!r}; choose {', '.join(SWITCH[:-1])} or {SWITCH[-1]}")
    return switch == "on" or (switch == "auto" and device.type == "cuda" and calls >= least)
