"""Where tensors are: the CPU, or a GPU that is really there."""

from __future__ import annotations

import os
import sys

import torch

from band.errors import DeviceError

LEAVE_IT = "or ask for no GPU (--device cpu; of a Slurm job --gres=none)"


def device_of(kind: str) -> torch.device:
    """Return the device "cpu" or "cuda".

    Raises:
        DeviceError: torch can use no GPU here; says why, as far as that can be seen.
    """
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"a GPU is asked for, but torch {torch.__version__} {_why()}, {LEAVE_IT}")
    return torch.device(kind)


def _why() -> str:
    if torch.version.cuda is None:
        return f"of {sys.executable} is built without CUDA: install one that is built with it there"
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = "not set" if given is None else repr(given)
    return (
        f"sees none on {os.uname().nodename} (CUDA_VISIBLE_DEVICES is {visible}): look for one with nvidia-smi there, "
        "in a container with apptainer exec --nv"
    )
