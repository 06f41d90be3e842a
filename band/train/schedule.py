"""What one member's validation scores decide: step size, best checkpoint, stopping."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from band.config import Hyper, TrainConfig


@dataclass
class Schedule:
    """Plateau, stopping and best checkpoint of one member; plain numbers, so that a checkpoint can hold them.

    The monitored score is smoothed first, and lower is better. Neither a best checkpoint nor a stop counts before the
    KL and L2 ramps have ended: until then the loss is another one.
    """

    lr: float
    smoothed: float = math.nan
    plateau_best: float = math.inf
    bad_epochs: int = 0
    best: float = math.inf
    best_epoch: int = -1
    stopped_by: str = ""

    def observe(self, score: float, *, epoch: int, hyper: Hyper, train: TrainConfig) -> bool:
        """Take the monitored score of an epoch; return whether the parameters of this epoch are the best so far.

        Args:
            score: lower is better.
            epoch: number of the epoch that just ended, from 0.
            hyper: rates and patience of the member.
            train: smoothing and stopping.
        """
        old = score if math.isnan(self.smoothed) else self.smoothed
        self.smoothed = train.smooth * score + (1 - train.smooth) * old
        self._step_plateau(hyper)
        is_best = ramps_have_ended(epoch, hyper) and self.smoothed < self.best
        if is_best:
            self.best, self.best_epoch = self.smoothed, epoch
        self._decide(epoch, hyper, train)
        return is_best

    def _step_plateau(self, hyper: Hyper) -> None:
        if self.smoothed < self.plateau_best:
            self.plateau_best, self.bad_epochs = self.smoothed, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > hyper.lr_patience:
            self.lr, self.bad_epochs = self.lr * hyper.lr_decay, 0

    def _decide(self, epoch: int, hyper: Hyper, train: TrainConfig) -> None:
        if epoch + 1 >= train.max_epochs:
            self.stopped_by = "max_epochs"
        elif not ramps_have_ended(epoch, hyper):
            return
        elif self.lr < hyper.lr_stop:
            self.stopped_by = "lr_stop"
        elif train.stop_patience and epoch - self.best_epoch >= train.stop_patience:
            self.stopped_by = "stop_patience"

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)


def ramps_have_ended(epoch: int, hyper: Hyper) -> bool:
    """Return whether epoch number `epoch`, from 0, is trained with the full KL and L2 weights."""
    kl_end = hyper.kl_start_epoch + hyper.kl_increase_epoch
    has_l2 = any((hyper.l2_ic_enc_scale, hyper.l2_ci_enc_scale, hyper.l2_gen_scale, hyper.l2_con_scale))
    has_l2 = has_l2 or hyper.weight_decay > 0
    return epoch >= max(kl_end, hyper.l2_start_epoch + hyper.l2_increase_epoch if has_l2 else 0)


def monitored(score: dict[str, float], monitor: str, *, num_counts: float) -> float:
    """Return the monitored score of an epoch, turned so that lower is better.

    Args:
        score: what validation found.
        monitor: its name; "valid_band" is the reconstruction of a count on average, and 1 - R² of behaviour beside it,
            0 for LFADS, which decodes none.
        num_counts: counts of a trial that `valid_recon` is a sum over; 1 where it is a mean.
    """
    if monitor == "valid_band":
        r2 = score["valid_behavior_r2"]
        return score["valid_recon"] / num_counts + 1 - (0.0 if math.isnan(score["valid_behavior"]) else r2)
    value = score[monitor]
    return -value if monitor in ("valid_bits_per_spike", "valid_behavior_r2") else value
