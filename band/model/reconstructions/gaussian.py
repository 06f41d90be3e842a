"""Normal values, such as filtered field potentials: the read-out is mean and log variance."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from band.model.reconstructions.base import Reconstruction

MIN_VAR = 1e-6  # floor of the variance in the loss, as in torch's GaussianNLLLoss; it passes no gradient


class Gaussian(Reconstruction):
    """Half of log variance and squared error over variance; log(2 pi) / 2 is left out, as lfads-torch does."""

    num_params = 2

    def terms(self, outputs: Tensor, data: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return the negative log-likelihood but for log(2 pi) / 2."""
        mean, log_var = outputs
        var = log_var.exp()
        var = var + (var.detach().clamp(min=MIN_VAR) - var.detach())
        return 0.5 * (var.log() + (data - mean).square() / var)

    def means(self, outputs: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return the means."""
        return outputs[0]
