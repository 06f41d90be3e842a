"""The trials of a population's members as tensors: which trial is whose, minibatches, whole splits.

Axes: M member, n pooled trial, B trial of a batch, T/R time bin. Arrays are held bins before trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from band.config import RunConfig
from band.data.recording import Recording, open_recording
from band.data.splits import Split, make_split
from band.errors import DataError
from band.model.forward import Batch
from band.model.losses import count_constant
from band.model.params import Widths, derived_generator


@dataclass(frozen=True)
class Trials:
    """One recording on the device, and each member's splits of it."""

    recording: Recording
    splits: tuple[Split, ...]  # one a member
    encod: Tensor  # (T, n, N)
    recon: Tensor  # (R, n, N'), 0 where unobserved; the same tensor as `encod` where both are equal
    recon_constant: Tensor  # (n,)
    behavior: Tensor | None = None  # (R, n, K), 0 where unobserved
    ext_input: Tensor | None = None  # (·, n, E)
    recon_observed: Tensor | None = None  # (R, n, N'), None where all is observed
    behavior_observed: Tensor | None = None

    @staticmethod
    def load(path: Path, configs: Sequence[RunConfig], *, device: torch.device) -> Trials:
        """Return the recording for members of these configurations, which differ in folds and hyperparameters alone.

        Raises:
            DataError: the file breaks a rule, or a split leaves nothing to train on.
        """
        data, arch, train = configs[0].data, configs[0].arch, configs[0].train
        recording = open_recording(path, bin_ms=data.bin_ms)
        known = {config.data: make_split(recording, config.data) for config in configs}
        dtype = getattr(torch, train.dtype)
        arrays = recording.arrays

        def held(key: str) -> tuple[Tensor | None, Tensor | None]:
            if key not in arrays:
                return None, None
            values = torch.tensor(np.asarray(arrays[key])).to(dtype).transpose(0, 1).contiguous()
            seen = ~values.isnan()
            observed = None if bool(seen.all()) else seen.to(device, dtype)
            return values.nan_to_num(0.0).to(device), observed

        encod, _ = held("encod_data")
        recon, recon_observed = held("recon_data")
        assert encod is not None and recon is not None
        if encod.shape == recon.shape and torch.equal(encod, recon):
            recon = encod
        behavior, behavior_observed = held("behavior")
        if behavior is not None and behavior.shape[0] != recon.shape[0]:
            raise DataError(
                f"{path}: behavior has {behavior.shape[0]} bins where recon_data has {recon.shape[0]}; they must match"
            )
        return Trials(
            recording=recording,
            splits=tuple(known[config.data] for config in configs),
            encod=encod,
            recon=recon,
            recon_constant=count_constant(recon.transpose(0, 1), stirling=arch.reconstruction == "poisson_stirling"),
            behavior=behavior,
            ext_input=held("ext_input")[0],
            recon_observed=recon_observed,
            behavior_observed=behavior_observed,
        )

    @property
    def widths(self) -> Widths:
        """Sizes of the recording."""
        return Widths(
            num_bins=self.encod.shape[0],
            num_recon_bins=self.recon.shape[0],
            num_neurons=self.encod.shape[2],
            num_recon_neurons=self.recon.shape[2],
            behavior_dim=0 if self.behavior is None else self.behavior.shape[2],
            ext_input_dim=0 if self.ext_input is None else self.ext_input.shape[2],
        )

    def batch(self, index: Tensor, weight: Tensor) -> Batch:
        """Return the trials `index` (M, B) with weights (M, B); in memory bins stand before trials."""

        def gather(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            out = values.new_empty(index.shape[0], values.shape[0], index.shape[1], values.shape[2])
            for row, trials in zip(out, index, strict=True):
                torch.index_select(values, 1, trials, out=row)
            return out.transpose(1, 2)

        encod = gather(self.encod)
        recon = encod if self.recon is self.encod else gather(self.recon)
        assert encod is not None and recon is not None
        return Batch(
            encod=encod,
            recon=recon,
            weight=weight,
            ext_input=gather(self.ext_input),
            behavior=gather(self.behavior),
            recon_observed=gather(self.recon_observed),
            behavior_observed=gather(self.behavior_observed),
            recon_constant=self.recon_constant[index],
        )

    def whole(self, split: str, members: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return index and weight (M, B) of a whole split of some members, padded to the longest with weight 0."""
        parts = [torch.from_numpy(getattr(self.splits[m], split)) for m in members]
        size = max(len(part) for part in parts)
        index = torch.zeros(len(parts), size, dtype=torch.int64)
        weight = torch.zeros(len(parts), size, dtype=self.encod.dtype)
        for row, part in enumerate(parts):
            index[row, : len(part)] = part
            weight[row, : len(part)] = 1
        return index.to(self.encod.device), weight.to(self.encod.device)


def steps_per_epoch(num_trials: int, *, batch_size: int, drop_last: bool) -> int:
    """Return the number of batches of an epoch: never less than one, a small set makes one padded batch."""
    whole, rest = divmod(num_trials, batch_size)
    return max(1, whole if drop_last else whole + (rest > 0))


def epoch_batches(
    trials: np.ndarray, *, seed: int, epoch: int, batch_size: int, drop_last: bool
) -> tuple[Tensor, Tensor]:
    """Return one member's shuffled batches of an epoch: indices and weights (steps, batch_size).

    The order depends on seed and epoch alone. The last batch is padded with trials of weight 0.
    """
    steps = steps_per_epoch(len(trials), batch_size=batch_size, drop_last=drop_last)
    order = torch.randperm(len(trials), generator=derived_generator(seed, "shuffle", epoch))[: steps * batch_size]
    index = torch.zeros(steps * batch_size, dtype=torch.int64)
    weight = torch.zeros(steps * batch_size, dtype=torch.float64)
    index[: len(order)] = torch.from_numpy(trials)[order]
    weight[: len(order)] = 1
    return index.view(steps, batch_size), weight.view(steps, batch_size)
