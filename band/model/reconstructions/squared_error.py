"""Squared error: the read-out is the value itself."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from band.model.reconstructions.base import Reconstruction


class SquaredError(Reconstruction):
    """Squared difference, no likelihood; `mse` in the configuration, as lfads-torch calls it."""

    def terms(self, outputs: Tensor, data: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return the squared differences."""
        return (data - outputs[0]).square()

    def means(self, outputs: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return the values."""
        return outputs[0]
