"""One trained member in plain operations: runs bin by bin as data come, and leaves the package as TorchScript.

Posterior means, no draws. It is written for reading and for export, not for speed; a parity check beside every export
holds it to the model that was trained.

Axes: B trial, T/R time bin, N neuron, F factor, K behaviour channel, S bins of the initial condition's own segment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from band.config import Arch
from band.errors import ConfigError
from band.model.params import Widths, session_room

State = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
MEANS = ("poisson", "poisson_stirling", "gaussian", "gamma", "zero_inflated_gamma", "mse", "categorical")
DECODERS = ("trial", "bin", "causal_lag")


def gru(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, clip: float) -> Tensor:
    """Return the next state (B, H) of the clipped cell; gates in the order z, r, n."""
    size = h.shape[1]
    gates = x @ w_ih.t() + bias
    recurrent = h @ w_hh[: 2 * size].t()
    z = torch.sigmoid(gates[:, :size] + recurrent[:, :size])
    r = torch.sigmoid(gates[:, size : 2 * size] + recurrent[:, size:])
    n = torch.tanh(gates[:, 2 * size :] + (r * h) @ w_hh[2 * size :].t())
    return torch.clamp(z * h + (1 - z) * n, -clip, clip)


class PlainModel(nn.Module):
    """Posterior means of one member for one session: `forward` for whole trials, `begin` and `step` for a stream."""

    def __init__(
        self, params: Mapping[str, Tensor], *, arch: Arch, widths: Widths, session: int = 0, has_behavior: bool = True
    ) -> None:
        """Take one member's parameters by name.

        Raises:
            ConfigError: an option of a user's own, of which this module knows nothing.
        """
        super().__init__()
        _require_known(arch)
        for name, value in params.items():
            self.register_buffer(name.replace(".", "_"), value.detach().clone().float())
        rows = self.fac_linear_weight
        self.register_buffer("fac_linear_weight", rows / rows.square().sum(dim=1, keepdim=True).sqrt())
        for room in ("readin", "readout"):
            for kind in ("weight", "bias"):
                own = params.get(f"{session_room(room, session, widths.num_sessions)}.{kind}")
                self.register_buffer(f"own_{room}_{kind}", torch.zeros(0) if own is None else own.detach().float())
        scale = params.get(f"{session_room('recon', session, widths.num_sessions)}.scale")
        self.register_buffer("own_scale", torch.zeros(0) if scale is None else scale.detach().float())
        for name in ("ci_enc_h0", "con_h0"):
            if not hasattr(self, name):
                self.register_buffer(name, torch.zeros(2, 0) if name == "ci_enc_h0" else torch.zeros(0))
        for name in ("ci_enc_weight_ih", "ci_enc_weight_hh", "ci_enc_bias", "con_weight_ih", "con_weight_hh",
                     "con_bias", "co_linear_weight", "co_linear_bias", "behavior_weight", "behavior_bias"):  # fmt: skip
            if not hasattr(self, name):
                self.register_buffer(name, torch.zeros(0))
        self.has_behavior: bool = has_behavior and "behavior.weight" in params
        self.has_readin: bool = arch.readin_dim > 0
        self.segment: int = arch.ic_enc_seq_len
        self.lag: int = arch.ci_lag
        self.causal: bool = arch.causal_con
        self.co_dim: int = arch.co_dim
        self.ic_dim: int = arch.ic_dim
        self.clip: float = arch.cell_clip
        self.num_bins: int = widths.num_recon_bins
        self.ext_dim: int = widths.ext_input_dim
        self.decoder: str = arch.behavior_decoder
        self.lags: int = arch.behavior_lags if arch.behavior_decoder == "causal_lag" else 0
        self.recon: str = arch.reconstruction
        self.likelihood: str = arch.behavior_likelihood
        self.classes: int = arch.behavior_classes
        self.gamma_loc: float = arch.gamma_loc

    def forward(self, counts: Tensor, ext_input: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return expected data (B, R, N'), factors (B, R, F), behaviour (B, R, K) and inferred inputs (B, R, D).

        Args:
            counts: (B, T, N).
            ext_input: (B, R, E), with E = 0 where the model has none.
        """
        x = self.read_in(counts)
        con, gen, fac = self.initial(x[:, : self.segment] if self.segment > 0 else x)
        ci = self.controller_input(x[:, self.segment :])
        factors: list[Tensor] = []
        inputs: list[Tensor] = []
        for t in range(self.num_bins):
            seen = torch.zeros_like(ci[:, 0])
            if self.segment <= t < self.segment + ci.shape[1]:
                seen = ci[:, t - self.segment]
            ext = ext_input[:, t] if t < ext_input.shape[1] else counts.new_zeros(counts.shape[0], self.ext_dim)
            con, gen, fac, co = self.decode(seen, ext, con, gen, fac)
            factors.append(fac)
            inputs.append(co)
        all_factors = torch.stack(factors, dim=1)
        return self.means(all_factors), all_factors, self.behavior(all_factors), torch.stack(inputs, dim=1)

    @torch.jit.export
    def begin(self, segment: Tensor, ext_input: Tensor) -> tuple[Tensor, Tensor, Tensor, State]:
        """Return expected data, factors, behaviour of the segment's bins, and the state after them.

        Args:
            segment: (B, S, N), counts of the initial condition's own segment.
            ext_input: (B, S, E).
        """
        assert self.segment > 0 and self.causal, "this model is not causal: it has no segment, or sees the future"
        con, gen, fac = self.initial(self.read_in(segment))
        trials, hidden = segment.shape[0], self.ci_enc_h0.shape[1]
        late = segment.new_zeros(trials, self.lag, hidden)
        before = segment.new_zeros(trials, self.lags, fac.shape[1])
        encoder = self.ci_enc_h0[0].expand(trials, hidden)
        factors: list[Tensor] = []
        for t in range(self.segment):
            con, gen, fac, _ = self.decode(segment.new_zeros(trials, 2 * hidden), ext_input[:, t], con, gen, fac)
            factors.append(fac)
            before = torch.cat((before, fac[:, None]), dim=1)[:, 1:]
        found = torch.stack(factors, dim=1)
        return self.means(found), found, self.behavior(found), (encoder, late, con, gen, fac, before)

    @torch.jit.export
    def step(self, counts: Tensor, ext_input: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor, State]:
        """Return expected data (B, N'), factors (B, F), behaviour (B, K) of the bin that just came, and the state.

        Args:
            counts: (B, N) of that bin.
            ext_input: (B, E).
            state: of the bin before.
        """
        encoder, late, con, gen, fac, before = state
        seen = torch.zeros(counts.shape[0], 2 * encoder.shape[1], dtype=encoder.dtype, device=encoder.device)
        if self.co_dim > 0:
            x = self.read_in(counts[:, None])[:, 0]
            encoder = gru(
                x, encoder, self.ci_enc_weight_ih[0], self.ci_enc_weight_hh[0], self.ci_enc_bias[0], self.clip
            )
            late = torch.cat((late, encoder[:, None]), dim=1)
            seen = torch.cat((late[:, 0], torch.zeros_like(encoder)), dim=1)
            late = late[:, 1:]
        con, gen, fac, _ = self.decode(seen, ext_input, con, gen, fac)
        window = torch.cat((before, fac[:, None]), dim=1)
        behavior = self.behavior(window)[:, -1]
        return self.means(fac[:, None])[:, 0], fac, behavior, (encoder, late, con, gen, fac, window[:, 1:])

    def read_in(self, counts: Tensor) -> Tensor:
        """Return what the encoders see of counts (B, T, N)."""
        return counts @ self.own_readin_weight.t() + self.own_readin_bias if self.has_readin else counts

    def initial(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first controller state, generator state and factors, from what the ic encoder sees (B, ·, N)."""
        ends: list[Tensor] = []
        for direction in range(2):
            h = self.ic_enc_h0[direction].expand(x.shape[0], -1)
            for i in range(x.shape[1]):
                t = i if direction == 0 else x.shape[1] - 1 - i
                h = gru(
                    x[:, t], h, self.ic_enc_weight_ih[direction], self.ic_enc_weight_hh[direction],
                    self.ic_enc_bias[direction], self.clip,
                )  # fmt: skip
            ends.append(h)
        ic = (torch.cat(ends, dim=1) @ self.ic_linear_weight.t() + self.ic_linear_bias)[:, : self.ic_dim]
        gen = ic @ self.ic_to_g0_weight.t() + self.ic_to_g0_bias
        return self.con_h0.expand(x.shape[0], -1), gen, gen @ self.fac_linear_weight.t()

    def controller_input(self, x: Tensor) -> Tensor:
        """Return (B, T, 2H): both directions of the ci encoder, each `lag` bins late; the backward one 0 if causal."""
        hidden = self.ci_enc_h0.shape[1]
        bins = x.shape[1]
        found = x.new_zeros(x.shape[0], bins, 2 * hidden)
        if self.co_dim == 0:
            return found
        for direction in range(1 if self.causal else 2):
            h = self.ci_enc_h0[direction].expand(x.shape[0], hidden)
            for i in range(bins):
                t = i if direction == 0 else bins - 1 - i
                h = gru(
                    x[:, t], h, self.ci_enc_weight_ih[direction], self.ci_enc_weight_hh[direction],
                    self.ci_enc_bias[direction], self.clip,
                )  # fmt: skip
                to = t + self.lag if direction == 0 else t - self.lag
                if 0 <= to < bins:
                    found[:, to, direction * hidden : (direction + 1) * hidden] = h
        return found

    def decode(
        self, seen: Tensor, ext: Tensor, con: Tensor, gen: Tensor, fac: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return controller state, generator state, factors and inferred input of the next bin."""
        co = seen.new_zeros(seen.shape[0], 0)
        if self.co_dim > 0:
            con = gru(
                torch.cat((seen, fac), dim=1), con, self.con_weight_ih, self.con_weight_hh, self.con_bias, self.clip
            )
            co = (con @ self.co_linear_weight.t() + self.co_linear_bias)[:, : self.co_dim]
        gen = gru(torch.cat((co, ext), dim=1), gen, self.gen_weight_ih, self.gen_weight_hh, self.gen_bias, self.clip)
        return con, gen, gen @ self.fac_linear_weight.t(), co

    def means(self, factors: Tensor) -> Tensor:
        """Return the expected data (B, R, N')."""
        outputs = factors @ self.own_readout_weight.t() + self.own_readout_bias
        return self.expected(outputs, self.recon, self.own_scale)

    def behavior(self, factors: Tensor) -> Tensor:
        """Return behaviour (B, R, K) from factors (B, R, F); K = 0 where the model has none."""
        if not self.has_behavior:
            return factors.new_zeros(factors.shape[0], factors.shape[1], 0)
        if self.decoder == "trial":
            if factors.shape[1] != self.num_bins:
                return factors.new_full((factors.shape[0], factors.shape[1], 0), 0.0)
            flat = factors.flatten(1) @ self.behavior_weight.t() + self.behavior_bias
            return self.expected(flat.unflatten(1, [self.num_bins, -1]), self.likelihood, self.own_scale)
        late: list[Tensor] = []
        for lag in range(self.lags + 1):
            late.append(nn.functional.pad(factors, [0, 0, lag, 0])[:, : factors.shape[1]])
        decoded = torch.cat(late, dim=2) @ self.behavior_weight.t() + self.behavior_bias
        return self.expected(decoded, self.likelihood, self.own_scale)

    def expected(self, outputs: Tensor, kind: str, scale: Tensor) -> Tensor:
        """Return what the numbers of a read-out mean on average."""
        if kind == "poisson" or kind == "poisson_stirling":
            return outputs.exp()
        if kind == "mse":
            return outputs
        if kind == "gaussian":
            return outputs.chunk(2, dim=-1)[0]
        if kind == "gamma":
            alpha, beta = outputs.chunk(2, dim=-1)
            return (alpha - beta).exp()
        if kind == "categorical":
            return torch.stack(outputs.chunk(self.classes, dim=-1)).argmax(dim=0).to(outputs.dtype)
        alpha, beta, q = torch.sigmoid(outputs).clamp(min=1e-5).chunk(3, dim=-1)
        return q * (alpha * scale[0] / (beta * scale[1]) + self.gamma_loc)


def _require_known(arch: Arch) -> None:
    known = {
        "reconstruction": MEANS, "behavior_likelihood": MEANS, "behavior_decoder": DECODERS,
    }  # fmt: skip
    for field, names in known.items():
        if getattr(arch, field) not in names:
            raise ConfigError(f"arch.{field}={getattr(arch, field)} is an option of your own; it cannot be exported")


def worst_difference(got: Tensor, want: Tensor) -> float:
    """Return max|got - want| over max|want|, 0 of nothing."""
    if not want.numel():
        return 0.0 if got.numel() == want.numel() else math.inf
    return float((got - want).abs().max() / want.abs().max().clamp(min=1e-30))
