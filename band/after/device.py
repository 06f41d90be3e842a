"""Where the model of a finished run is computed."""

from __future__ import annotations

import torch

from band.errors import ConfigError


def use(device: str, *, threads: int) -> None:
    """Take that many cores, and check that the device is there.

    Raises:
        ConfigError: it is not.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU here; leave it out to use the CPU")
    torch.set_num_threads(threads)
