"""The trials of a population's members as tensors: which trial is whose, minibatches, whole splits.

Axes: M member, n pooled trial, B trial of a batch, T/R time bin. Arrays are held bins before trials.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from band.config import DataConfig, RunConfig
from band.data.holdout import hold_out
from band.data.recording import Recording, open_sessions
from band.data.sessions import check_alike
from band.data.splits import Split, make_split
from band.errors import ConfigError, DataError
from band.model.forward import Batch
from band.model.params import Widths, derived_generator
from band.model.reconstructions import behavior_likelihood_of, reconstruction_of

Cut = Callable[[Recording, DataConfig], Split]


@dataclass(frozen=True)
class SessionTrials:
    """One recording session on the device, and each member's splits of it."""

    recording: Recording
    splits: tuple[Split, ...]  # one a member
    encod: Tensor  # (T, n, N), 0 where unobserved
    recon: Tensor  # (R, n, N'), 0 where unobserved; the same tensor as `encod` where both are equal
    recon_constant: Tensor  # (n,)
    behavior: Tensor | None = None  # (R, n, K), 0 where unobserved
    ext_input: Tensor | None = None  # (·, n, E)
    recon_observed: Tensor | None = None  # (R, n, N'), None where all is observed
    behavior_observed: Tensor | None = None

    @staticmethod
    def place(
        recording: Recording, configs: Sequence[RunConfig], *, device: torch.device, cut: Cut = make_split
    ) -> SessionTrials:
        """Return the session for members of these configurations, its trials cut into splits by `cut`."""
        known = {config.data: cut(recording, config.data) for config in configs}
        recording = hold_out(recording, configs[0].data)
        arrays, dtype = recording.arrays, getattr(torch, configs[0].train.dtype)

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
        constant = reconstruction_of(configs[0].arch).constant(recon.transpose(0, 1))
        if encod.shape == recon.shape and torch.equal(encod, recon):
            recon = encod
        behavior, behavior_observed = _padded(*held("behavior"), bins=recon.shape[0])
        _check_values(recording, recon, behavior, configs)
        return SessionTrials(
            recording=recording,
            splits=tuple(known[config.data] for config in configs),
            encod=encod,
            recon=recon,
            recon_constant=recon.new_zeros(recon.shape[1]) if constant is None else constant,
            behavior=behavior,
            ext_input=held("ext_input")[0],
            recon_observed=recon_observed,
            behavior_observed=behavior_observed,
        )

    def split(self, name: str, member: int) -> np.ndarray:
        """Return the trials of one member's "train", "valid" or "test" split."""
        return np.asarray(getattr(self.splits[member], name))


def _check_values(recording: Recording, recon: Tensor, behavior: Tensor | None, configs: Sequence[RunConfig]) -> None:
    """Raise DataError unless counts and behaviour, 0 where unobserved, can be what the configuration says they are."""
    arch = configs[0].arch
    likelihood = behavior_likelihood_of(arch)
    is_used = any(config.hyper.behavior_weight for config in configs) or not likelihood.is_quantity
    for key, values, kind, option in (
        ("recon_data", recon, reconstruction_of(arch), f"arch.reconstruction={arch.reconstruction}"),
        ("behavior", behavior if is_used else None, likelihood, f"arch.behavior_likelihood={arch.behavior_likelihood}"),
    ):
        holds = None if values is None else kind.holds(values)
        if values is None or holds is None or bool(holds.all()):
            continue
        trial = int((~holds).any(dim=2).any(dim=0).nonzero()[0])
        value = float(values[:, trial][~holds[:, trial]][0])
        raise DataError(
            f"{recording.path}: {recording.where(key, trial)} must hold {kind.rule} where {option}, found {value:g}"
        )


def _padded(values: Tensor | None, observed: Tensor | None, *, bins: int) -> tuple[Tensor | None, Tensor | None]:
    """Return behaviour (R, n, K) and what of it was observed, bins that were only forecast counted as not."""
    if values is None or values.shape[0] == bins:
        return values, observed
    observed = torch.ones_like(values) if observed is None else observed
    rest = (0, 0, 0, 0, 0, bins - values.shape[0])
    return functional.pad(values, rest), functional.pad(observed, rest)


@dataclass(frozen=True)
class Trials:
    """The recording sessions of a population's members; an index of trials is one tensor a session."""

    sessions: tuple[SessionTrials, ...]
    widths: Widths
    batch_sizes: tuple[int, ...]  # trials of each session in a minibatch of every member

    @staticmethod
    def load(path: Path, configs: Sequence[RunConfig], *, device: torch.device, cut: Cut = make_split) -> Trials:
        """Return the recording for members of these configurations, which differ in folds and hyperparameters alone.

        `cut` makes the splits of a session.

        Raises:
            DataError: the file breaks a rule, a split leaves nothing to train on, or its sessions do not go together.
        """
        data, arch = configs[0].data, configs[0].arch
        recordings = open_sessions(
            path, bin_ms=data.bin_ms, likelihood=reconstruction_of(arch).support, missing=data.missing
        )
        check_alike(recordings, path=path)
        if len(recordings) > 1 and not arch.readin_dim:
            raise ConfigError(
                f"arch.readin_dim must be above 0 for a recording of {len(recordings)} sessions, whose neurons differ: "
                f"{path}; it is the number of channels that all of them are mapped to"
            )
        sessions = tuple(SessionTrials.place(recording, configs, device=device, cut=cut) for recording in recordings)
        counts = [recording.num_trials for recording in recordings]
        return Trials(sessions, _widths(sessions), shares(configs[0].train.batch_size, counts))

    @property
    def device(self) -> torch.device:
        """Where the trials lie."""
        return self.sessions[0].encod.device

    @property
    def num_members(self) -> int:
        """Of how many members the splits are known."""
        return len(self.sessions[0].splits)

    @property
    def dtype(self) -> torch.dtype:
        """Of counts and behaviour."""
        return self.sessions[0].encod.dtype

    def batch(self, index: Sequence[Tensor], weight: Sequence[Tensor]) -> Batch:
        """Return the trials `index` (M, B) of each session with weights (M, B); in memory bins stand before trials."""
        sessions = self.sessions

        def each(name: str) -> list[Tensor | None]:
            return [_gather(getattr(s, name), trials) for s, trials in zip(sessions, index, strict=True)]

        def joined(name: str) -> Tensor | None:
            """Of sessions among which some lack it: 0 there, and not observed."""
            parts = each(name)
            if all(part is None for part in parts):
                return None
            like = next(part for part in parts if part is not None)
            fill = 1.0 if name.endswith("_observed") else 0.0
            return _cat([_filled(part, like, trials, fill) for part, trials in zip(parts, index, strict=True)])

        encod = tuple(part for part in each("encod") if part is not None)
        recon = tuple(
            counts if s.recon is s.encod else _gather(s.recon, trials)
            for s, counts, trials in zip(sessions, encod, index, strict=True)
        )
        observed = each("recon_observed")
        return Batch(
            encod=encod,
            recon=recon,  # type: ignore[arg-type]
            weight=_cat(list(weight)),
            ext_input=joined("ext_input"),
            behavior=joined("behavior"),
            recon_observed=None if all(part is None for part in observed) else tuple(observed),
            behavior_observed=joined("behavior_observed"),
            recon_constant=_cat([s.recon_constant[trials] for s, trials in zip(sessions, index, strict=True)]),
        )

    def whole(self, split: str, members: Sequence[int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return index and weight (M, B) of a whole split of some members, by session; padding has weight 0."""
        parts = [self._whole(session, split, members) for session in self.sessions]
        return tuple(index for index, _ in parts), tuple(weight for _, weight in parts)

    def _whole(self, session: SessionTrials, split: str, members: Sequence[int]) -> tuple[Tensor, Tensor]:
        parts = [torch.from_numpy(session.split(split, m)) for m in members]
        size = max(len(part) for part in parts)
        index = torch.zeros(len(parts), size, dtype=torch.int64)
        weight = torch.zeros(len(parts), size, dtype=self.dtype)
        for row, part in enumerate(parts):
            index[row, : len(part)] = part
            weight[row, : len(part)] = 1
        return index.to(self.device), weight.to(self.device)

    def epoch(self, member: int, config: RunConfig, *, epoch: int) -> list[tuple[Tensor, Tensor]]:
        """Return one member's shuffled batches of an epoch: of each session indices and weights (steps, B), on the CPU.

        With several sessions each is spread evenly over the steps, so an epoch passes once over all trials of all.
        """
        train = config.train
        trials = [session.split("train", member) for session in self.sessions]
        if len(trials) == 1:
            steps = steps_per_epoch(len(trials[0]), batch_size=train.batch_size, drop_last=train.drop_last)
        else:
            steps = max(-(-len(part) // size) for part, size in zip(trials, self.batch_sizes, strict=True))
        found = []
        for s, (part, size) in enumerate(zip(trials, self.batch_sizes, strict=True)):
            purpose = ("shuffle", epoch) if len(trials) == 1 else ("shuffle", epoch, s)
            index, weight = spread(part, derived_generator(config.seed, *purpose), steps=steps, batch_size=size)
            found.append((index, weight.to(self.dtype)))
        return found


def _gather(values: Tensor | None, index: Tensor) -> Tensor | None:
    """Return (M, B, T, ·) of the trials `index` (M, B) of (T, n, ·)."""
    if values is None:
        return None
    bins, trials = values.shape[:2]
    rows = torch.arange(bins, device=index.device)[:, None] * trials + index[:, None]
    chosen = values.flatten(0, 1).index_select(0, rows.flatten())
    return chosen.unflatten(0, rows.shape).transpose(1, 2)


def _filled(part: Tensor | None, like: Tensor, index: Tensor, fill: float) -> Tensor:
    if part is not None:
        return part
    return like.new_full((index.shape[0], like.shape[2], index.shape[1], like.shape[3]), fill).transpose(1, 2)


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _widths(sessions: tuple[SessionTrials, ...]) -> Widths:
    first = sessions[0]
    return Widths(
        num_bins=first.encod.shape[0],
        num_recon_bins=first.recon.shape[0],
        num_neurons=tuple(session.encod.shape[2] for session in sessions),
        num_recon_neurons=tuple(session.recon.shape[2] for session in sessions),
        behavior_dim=0 if first.behavior is None else first.behavior.shape[2],
        ext_input_dim=0 if first.ext_input is None else first.ext_input.shape[2],
    )


def shares(batch_size: int, counts: Sequence[int]) -> tuple[int, ...]:
    """Return how many trials of a batch each session has: in proportion to its trials, at least one, by largest rest.

    The whole sessions count, not a member's split of them: so a batch is the same whoever trains beside.
    """
    exact = [batch_size * count / sum(counts) for count in counts]
    whole = [max(1, int(share)) for share in exact]
    order = sorted(range(len(counts)), key=lambda s: exact[s] - int(exact[s]), reverse=True)
    for s in order[: max(0, batch_size - sum(whole))]:
        whole[s] += 1
    return tuple(whole)


def steps_per_epoch(num_trials: int, *, batch_size: int, drop_last: bool) -> int:
    """Return the number of batches of an epoch: never less than one, a small set makes one padded batch."""
    whole, rest = divmod(num_trials, batch_size)
    return max(1, whole if drop_last else whole + (rest > 0))


def spread(trials: np.ndarray, generator: torch.Generator, *, steps: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return shuffled batches: indices and weights (steps, batch_size); padding has weight 0.

    Whole batches are filled one after the other where there is enough for each; else the trials are spread evenly.
    """
    order = torch.from_numpy(trials)[torch.randperm(len(trials), generator=generator)][: steps * batch_size]
    index = torch.zeros(steps, batch_size, dtype=torch.int64)
    weight = torch.zeros(steps, batch_size, dtype=torch.float64)
    even = torch.tensor_split(order, steps)
    fits = len(order) > (steps - 1) * batch_size  # the last batch alone is short
    for row, part in enumerate(order.split(batch_size) if fits else even):
        index[row, : len(part)] = part
        weight[row, : len(part)] = 1
    return index, weight
