"""LFADS/BAND of one member the way the published packages build it: the yardstick of every speed claim.

Eager float32 modules, one call of a GRU cell a bin and direction, one concatenated state through the decoder, autograd
through all of it, torch.optim.AdamW. `python -m benchmarks` first checks that it computes the loss of the package.

Axes: B trial, T time bin, N neuron.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from band.config import Arch
from band.model.noise import Noise
from band.model.params import Params


class ClippedGRUCell(nn.Module):
    """A GRU cell that resets before the recurrent product and clips its state."""

    def __init__(self, inputs: int, hidden: int, clip: float) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.randn(3 * hidden, inputs) / max(inputs, 1) ** 0.5)
        self.weight_hh = nn.Parameter(torch.randn(3 * hidden, hidden) / hidden**0.5)
        self.bias = nn.Parameter(torch.zeros(3 * hidden))
        self.clip = clip

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the next state (B, H)."""
        hidden = h.shape[1]
        x_z, x_r, x_n = (x @ self.weight_ih.T + self.bias).chunk(3, dim=1)
        w_zr, w_n = self.weight_hh.split((2 * hidden, hidden))
        h_z, h_r = (h @ w_zr.T).chunk(2, dim=1)
        z, r = torch.sigmoid(x_z + h_z), torch.sigmoid(x_r + h_r)
        n = torch.tanh(x_n + (r * h) @ w_n.T)
        return torch.clamp(z * h + (1 - z) * n, -self.clip, self.clip)


class BidirectionalGRU(nn.Module):
    """Two cells, forward and backward in time."""

    def __init__(self, inputs: int, hidden: int, clip: float) -> None:
        super().__init__()
        self.cells = nn.ModuleList([ClippedGRUCell(inputs, hidden, clip) for _ in range(2)])
        self.h0 = nn.Parameter(torch.zeros(2, hidden))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return states (B, T, 2H) and the last states of both directions (B, 2H)."""
        ends, states = [], []
        for direction, cell in enumerate(self.cells):
            h = self.h0[direction].expand(x.shape[0], -1)
            found = []
            for step in x.flip(1).unbind(1) if direction else x.unbind(1):
                h = cell(step, h)
                found.append(h)
            stacked = torch.stack(found, dim=1)
            states.append(stacked.flip(1) if direction else stacked)
            ends.append(h)
        return torch.cat(states, dim=2), torch.cat(ends, dim=1)


class Reference(nn.Module):
    """One LFADS/BAND model with a controller."""

    def __init__(self, arch: Arch, *, neurons: int, bins: int, behavior_dim: int) -> None:
        super().__init__()
        self.arch = arch
        clip = arch.cell_clip
        self.ic_enc = BidirectionalGRU(neurons, arch.ic_enc_dim, clip)
        self.ci_enc = BidirectionalGRU(neurons, arch.ci_enc_dim, clip)
        self.ic_linear = nn.Linear(2 * arch.ic_enc_dim, 2 * arch.ic_dim)
        self.con_h0 = nn.Parameter(torch.zeros(1, arch.con_dim))
        self.con = ClippedGRUCell(2 * arch.ci_enc_dim + arch.fac_dim, arch.con_dim, clip)
        self.co_linear = nn.Linear(arch.con_dim, 2 * arch.co_dim)
        self.ic_to_g0 = nn.Linear(arch.ic_dim, arch.gen_dim)
        self.gen = ClippedGRUCell(arch.co_dim, arch.gen_dim, clip)
        self.fac_linear = nn.Linear(arch.gen_dim, arch.fac_dim, bias=False)
        self.readout = nn.Linear(arch.fac_dim, neurons)
        self.behavior = nn.Linear(bins * arch.fac_dim, bins * behavior_dim)
        self.ic_prior, self.co_prior = (nn.Parameter(torch.zeros(k)) for k in (arch.ic_dim, arch.co_dim))

    def load(self, params: Params, member: int) -> None:
        """Take the parameters of a member of the package."""
        ours = {name: view[member].detach() for name, view in params.items()}
        state = {"con_h0": ours["con.h0"][None], "ic_prior": ours["ic_prior.mean"], "co_prior": ours["co_prior.mean"]}
        for room in ("ic_enc", "ci_enc"):
            state[f"{room}.h0"] = ours[f"{room}.h0"]
            for kind in ("weight_ih", "weight_hh", "bias"):
                for direction in (0, 1):
                    state[f"{room}.cells.{direction}.{kind}"] = ours[f"{room}.{kind}"][direction]
        names = {name for name, _ in self.named_parameters()} - state.keys()
        self.load_state_dict(state | {name: ours[name] for name in names})

    def forward(self, data: Tensor, noise: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Return log rates, behaviour, and mean and log variance of both posteriors.

        Args:
            data: (B, T, N), counts.
            noise: draws and masks of one member under the names of `band.model.noise.Noise`; absent ones are drawn.
        """
        arch = self.arch

        def drop(values: Tensor, mask: Tensor | None, rate: float = 0.1) -> Tensor:
            return functional.dropout(values, rate) if mask is None else values * mask

        x = drop(data * noise["cd_keep"], noise.get("encoder"))
        _, ends = self.ic_enc(x)
        ic_mean, ic_log_var = self.ic_linear(drop(ends, noise.get("ic"))).chunk(2, dim=1)
        ic = ic_mean + (ic_log_var.exp() + arch.ic_post_var_min).sqrt() * noise["eps_ic"]
        ci, _ = self.ci_enc(x)
        forward, backward = ci.chunk(2, dim=2)
        forward = functional.pad(forward, (0, 0, arch.ci_lag, 0))[:, : x.shape[1]]
        backward = functional.pad(backward, (0, 0, 0, arch.ci_lag))[:, -x.shape[1] :]
        ci = torch.cat((forward, torch.zeros_like(backward) if arch.causal_con else backward), dim=2)
        state = self._first_state(self.ic_to_g0(ic), noise, drop)
        rows = []
        for t in range(x.shape[1]):
            state = self._bin(ci[:, t], state, noise, t, drop)
            rows.append(state)
        states = torch.stack(rows, dim=1)
        _, _, co_mean, co_log_var, factors = states.split(self._widths(), dim=2)
        flat = drop(factors, noise.get("behavior"), 0.5).flatten(1)
        return self.readout(factors), self.behavior(flat), ic_mean, ic_log_var, co_mean, co_log_var

    def _widths(self) -> list[int]:
        arch = self.arch
        return [arch.gen_dim, arch.con_dim, arch.co_dim, arch.co_dim, arch.fac_dim]

    def _factors(self, g: Tensor) -> Tensor:
        return functional.linear(g, functional.normalize(self.fac_linear.weight, dim=1))

    def _first_state(self, g: Tensor, noise: dict[str, Tensor], drop) -> Tensor:
        zeros = g.new_zeros(g.shape[0], self.arch.co_dim)
        factors = self._factors(drop(g, noise.get("gen_init")))
        return torch.cat((g, self.con_h0.expand(g.shape[0], -1), zeros, zeros, factors), dim=1)

    def _bin(self, ci: Tensor, state: Tensor, noise: dict[str, Tensor], t: int, drop) -> Tensor:
        g, c, _, _, factors = state.split(self._widths(), dim=1)
        seen = torch.cat((ci, factors), dim=1)
        c = self.con(drop(seen, self._mask(noise, "controller", t)), c)
        mean, log_var = self.co_linear(c).chunk(2, dim=1)
        u = mean + log_var.exp().sqrt() * noise["eps_co"][:, t]
        g = self.gen(u, g)
        factors = self._factors(drop(g, self._mask(noise, "generator", t)))
        return torch.cat((g, c, mean, log_var, factors), dim=1)

    def _mask(self, noise: dict[str, Tensor], name: str, t: int) -> Tensor | None:
        mask = noise.get(name)
        if mask is None:
            return None
        if name == "controller" and self.arch.causal_con:  # the package leaves the zeroed half out
            half = self.arch.ci_enc_dim
            return torch.cat((mask[:, t, :half], torch.ones_like(mask[:, t, :half]), mask[:, t, half:]), dim=1)
        return mask[:, t]

    def loss(self, data: Tensor, behavior: Tensor, noise: dict[str, Tensor], *, behavior_weight: float) -> Tensor:
        """Return the loss with full KL weights, the log-factorial constant included."""
        log_rates, predicted, ic_mean, ic_log_var, co_mean, co_log_var = self(data, noise)
        nll = functional.poisson_nll_loss(log_rates, data, reduction="none") + torch.lgamma(data + 1)
        hidden = noise["cd_keep"] == 0
        nll = torch.where(hidden, nll, nll.detach()).sum(dim=(1, 2)).mean()
        error = (predicted.view_as(behavior) - behavior).square().sum(dim=(1, 2)).mean()
        arch = self.arch
        ic_var = ic_log_var.exp() + arch.ic_post_var_min
        kl = _kl(ic_mean, ic_var, self.ic_prior, arch.ic_prior_var).sum(dim=1).mean()
        kl = kl + _kl(co_mean, co_log_var.exp(), self.co_prior, arch.co_prior_var).sum(dim=(1, 2)).mean()
        return nll + behavior_weight * error + kl


def _kl(mean: Tensor, var: Tensor, prior_mean: Tensor, prior_var: float) -> Tensor:
    posterior = torch.distributions.Normal(mean, var.sqrt())
    prior = torch.distributions.Normal(prior_mean, torch.full_like(prior_mean, prior_var).sqrt())
    return torch.distributions.kl_divergence(posterior, prior)


def member_noise(noise: Noise, member: int) -> dict[str, Tensor]:
    """Return one member's draws and masks as the reference takes them."""
    drawn = {name: value for name, value in vars(noise).items() if value is not None}
    return {name: (value[0] if isinstance(value, tuple) else value)[member] for name, value in drawn.items()}
