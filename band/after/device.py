"""Where the model of a finished run is computed."""

from __future__ import annotations

import torch

from band.train.device import device_of


def use(device: str, *, threads: int) -> None:
    """Take that many cores, and check that the device is there.

    Raises:
        DeviceError: it is not.
    """
    device_of(device)
    torch.set_num_threads(threads)
