"""A small recurrent decoder of behaviour, a baseline for what a model's factors add over decoding directly.

Axes: n trial, T time bin, F feature, K behaviour channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from band.model.params import derived_generator


@dataclass(frozen=True, kw_only=True)
class RnnSettings:
    """How the decoder is made and trained."""

    hidden: int = 64  # units a direction; it reads the whole trial, as the model does
    lr: float = 3e-3
    weight_decay: float = 1e-4
    dropout_rate: float = 0.3  # of features and states
    batch_size: int = 32
    max_epochs: int = 150
    patience: int = 15  # epochs without improvement on the held groups
    held_share: float = 0.2  # of train's groups, which say when to stop and train nothing
    seed: int = 0


@dataclass(frozen=True)
class RnnDecoder:
    """A trained bidirectional GRU with a linear read-out, on standardised features and behaviour."""

    gru: nn.GRU
    readout: nn.Linear
    features: tuple[Tensor, Tensor]  # mean and scale
    behavior: tuple[Tensor, Tensor]
    epochs: int = 0  # trained, at its best

    def states(self, features: Tensor, *, masks: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return standardised behaviour (n, T, K) of standardised features (n, T, F)."""
        seen = features if masks is None else features * masks[0]
        states = self.gru(seen)[0]
        return self.readout(states if masks is None else states * masks[1])

    @torch.no_grad()
    def decode(self, features: np.ndarray) -> np.ndarray:
        """Return behaviour (n, T, K) of features (n, T, F)."""
        found = self.states(_standard(features, self.features)) * self.behavior[1] + self.behavior[0]
        return found.double().numpy()


def fit_rnn(
    features: np.ndarray,
    behavior: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    settings: RnnSettings = RnnSettings(),
) -> RnnDecoder:
    """Return the decoder of behaviour (n, T, K; NaN: missing) from features (n, T, F), at its best on held groups.

    `groups` (n,) labels trials that are held back together; None: each trial alone.
    """
    decoder = _start(features, behavior, settings)
    x, y = _standard(features, decoder.features), _standard(behavior, decoder.behavior)
    seen, y = ~y.isnan(), y.nan_to_num(0.0)
    groups = np.arange(len(x)) if groups is None else np.asarray(groups)
    held = torch.from_numpy(np.isin(groups, _held(groups, settings)))
    params = [*decoder.gru.parameters(), *decoder.readout.parameters()]
    optimiser = torch.optim.AdamW(params, lr=settings.lr, weight_decay=settings.weight_decay)
    best, best_params, best_epoch = float("inf"), [p.detach().clone() for p in params], -1
    for epoch in range(settings.max_epochs):
        _epoch(decoder, x[~held], y[~held], seen[~held], optimiser, settings, epoch)
        with torch.no_grad():
            error = _error(decoder.states(x[held]), y[held], seen[held]).item()
        if error < best:
            best, best_params, best_epoch = error, [p.detach().clone() for p in params], epoch
        if epoch - best_epoch >= settings.patience:
            break
    with torch.no_grad():
        for param, value in zip(params, best_params, strict=True):
            param.copy_(value)
    return RnnDecoder(decoder.gru, decoder.readout, decoder.features, decoder.behavior, best_epoch + 1)


def _start(features: np.ndarray, behavior: np.ndarray, settings: RnnSettings) -> RnnDecoder:
    gru = nn.GRU(features.shape[2], settings.hidden, batch_first=True, bidirectional=True)
    readout = nn.Linear(2 * settings.hidden, behavior.shape[2])
    with torch.no_grad():
        for name, param in [*gru.named_parameters(), *readout.named_parameters(prefix="readout")]:
            bound = settings.hidden**-0.5
            param.uniform_(-bound, bound, generator=derived_generator(settings.seed, "rnn", name))
    return RnnDecoder(gru, readout, _moments(features), _moments(behavior))


def _moments(values: np.ndarray) -> tuple[Tensor, Tensor]:
    with np.errstate(invalid="ignore"):
        mean, scale = np.nanmean(values, axis=(0, 1)), np.nanstd(values, axis=(0, 1))
    return torch.from_numpy(mean).float(), torch.from_numpy(np.where(scale > 0, scale, 1.0)).float()


def _standard(values: np.ndarray, moments: tuple[Tensor, Tensor]) -> Tensor:
    return (torch.tensor(np.asarray(values, np.float32)) - moments[0]) / moments[1]


def _held(groups: np.ndarray, settings: RnnSettings) -> np.ndarray:
    """Return the groups that train nothing: at least one, and not all."""
    labels = np.unique(groups)
    order = torch.randperm(len(labels), generator=derived_generator(settings.seed, "rnn held")).numpy()
    return labels[order[: min(max(1, round(settings.held_share * len(labels))), len(labels) - 1)]]


def _error(decoded: Tensor, behavior: Tensor, seen: Tensor) -> Tensor:
    return ((decoded - behavior).square() * seen).sum() / seen.sum().clamp(min=1)


def _epoch(
    decoder: RnnDecoder, x: Tensor, y: Tensor, seen: Tensor, optimiser: torch.optim.Optimizer, settings: RnnSettings,
    epoch: int,
) -> None:  # fmt: skip
    generator = derived_generator(settings.seed, "rnn epoch", epoch)
    keep = 1 - settings.dropout_rate
    for part in torch.randperm(len(x), generator=generator).split(settings.batch_size):
        shape = (len(part), x.shape[1], 2 * settings.hidden)
        masks = tuple(
            (torch.rand(size, generator=generator) < keep).float() / keep for size in (x[part].shape, torch.Size(shape))
        )
        optimiser.zero_grad()
        _error(decoder.states(x[part], masks=masks), y[part], seen[part]).backward()
        nn.utils.clip_grad_norm_([*decoder.gru.parameters(), *decoder.readout.parameters()], 1.0)
        optimiser.step()
