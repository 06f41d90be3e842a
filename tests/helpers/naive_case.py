"""Random parameters, data, masks and draws for any configuration, and the comparison of its members with the oracle.

Axes: M member, B trial, T/R time bin, N, N' neuron, K behaviour channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import oracle
import torch
from torch import Tensor

from band.config import Arch
from band.model.forward import Batch, Latents, Losses, Scales, compute_losses, run_model
from band.model.noise import Noise
from band.model.params import Params, Widths, encoder_width, has_controller, initial_params
from band.model.reconstructions import reconstruction_of

F64 = torch.float64
M = 3
ROOMS = ("ic_enc", "ci_enc", "gen", "con")
PER_MEMBER = ("behavior_weight", "kl_ic_scale", "kl_co_scale", "kl_ic_target", "kl_co_target")
SIZES = {"ic_enc_dim": 5, "ci_enc_dim": 5, "con_dim": 4, "co_dim": 2, "ic_dim": 3, "gen_dim": 6, "fac_dim": 4}


def small(**changes) -> Arch:
    """Return a small model."""
    return Arch(**{**SIZES, **changes})


@dataclass(frozen=True, kw_only=True)
class Case:
    """What goes into a pass; counts and behaviour with NaN where nothing was observed."""

    arch: Arch
    widths: Widths
    params: Params
    noise: Noise
    encod: tuple[Tensor, ...]  # of each session (M, B, T, N)
    recon: tuple[Tensor, ...]  # of each session (M, B, R, N')
    behavior: Tensor | None  # (M, B, R, K), of all sessions
    ext_input: Tensor | None  # (M, B, T, E)
    weight: Tensor  # (M, B)
    reduce_mean: bool = False
    kl_co_reduce: str = "sum"
    trials_at_once: int = 0

    def batch(self) -> Batch:
        """Return the trials as the package takes them."""
        kind = reconstruction_of(self.arch)
        filled = tuple(data.nan_to_num(0.0) for data in self.recon)
        constants = [kind.constant(data) for data in filled]
        return Batch(
            encod=self.encod, recon=filled, weight=self.weight, ext_input=self.ext_input,
            behavior=None if self.behavior is None else self.behavior.nan_to_num(0.0),
            recon_observed=_observed(self.recon),
            behavior_observed=None if self.behavior is None else _observed((self.behavior,), always=True)[0],
            recon_constant=None if constants[0] is None else torch.cat(constants, dim=1),
        )  # fmt: skip

    def weights(self, member: int) -> dict:
        """Return weights, targets, ramps and kinds by name; those of the loss differ between members."""
        arch = self.arch
        return {
            "behavior_weight": (0.0, 0.7, 1.3)[member], "kl_ic_scale": 1.0 + member, "kl_co_scale": 0.5 * (1 + member),
            "kl_ic_target": 0.1 * member, "kl_co_target": 0.05, "l2_ic_enc": 3.0 * member, "l2_ci_enc": 2.0,
            "l2_gen": 50.0, "l2_con": 0.0, "kl_ramp": 0.3 + 0.1 * member, "l2_ramp": 0.6, "loss_scale": 2.0,
            "reduce_mean": self.reduce_mean, "kl_co_reduce": self.kl_co_reduce, "var_min": arch.ic_post_var_min,
            "ic_prior_var": arch.ic_prior_var, "co_prior_var": arch.co_prior_var,
            **{name: getattr(arch, name) for name in (
                "ic_prior", "co_prior", "prior_df", "reconstruction", "behavior_likelihood", "gamma_loc",
                "gamma_scale_prior", "gamma_scale_penalty",
            )},
        }  # fmt: skip

    def forward(self) -> tuple[Latents, Losses, Tensor]:
        """Return what the package computes: latents, losses and gradient (M, P)."""

        def stacked(key: str) -> Tensor:
            return torch.tensor([self.weights(m)[key] for m in range(M)], dtype=F64)

        scales = Scales(
            **{key: stacked(key) for key in PER_MEMBER}, l2={room: stacked(f"l2_{room}") for room in ROOMS},
            loss_scale=2.0, recon_reduce_mean=self.reduce_mean, kl_co_reduce=self.kl_co_reduce,
        )  # fmt: skip
        batch = self.batch()
        latents = run_model(
            self.params, batch, arch=self.arch, widths=self.widths, noise=self.noise,
            trials_at_once=self.trials_at_once,
        )  # fmt: skip
        terms = compute_losses(
            self.params, latents, batch, arch=self.arch, scales=scales, kl_ramp=stacked("kl_ramp"),
            l2_ramp=stacked("l2_ramp"), noise=self.noise,
        )  # fmt: skip
        return latents, terms, self.params.gradient(terms.loss)

    def naive(self, member: int) -> tuple[list[dict], Tensor, Tensor]:
        """Return what the oracle computes for one member: latents of each session, loss, gradient (P,)."""
        leaf = {name: value[member].detach().clone().requires_grad_() for name, value in self.params.items()}
        found, terms, weights, start = [], [], [], 0
        decoder = self.arch.behavior_lags if self.arch.behavior_decoder == "causal_lag" else self.arch.behavior_decoder
        for session, data in enumerate(self.encod):
            rows = slice(start, start := start + data.shape[1])
            own = oracle.session_params(leaf, session) if len(self.encod) > 1 else leaf
            noise = {
                name: value[session][member] if isinstance(value, tuple) else value[member, rows]
                for name, value in vars(self.noise).items()
                if value is not None
            }
            found.append(
                oracle.run(
                    own, data[member], noise, lag=self.arch.ci_lag, causal=self.arch.causal_con,
                    clip=self.arch.cell_clip, var_min=self.arch.ic_post_var_min, segment=self.arch.ic_enc_seq_len,
                    ext=None if self.ext_input is None else self.ext_input[member, rows],
                    bins=self.widths.num_recon_bins, decoder=decoder,
                )
            )  # fmt: skip
            behavior = None if self.behavior is None else self.behavior[member, rows]
            h = self.weights(member)
            terms.append(oracle.trial_terms(own, found[-1], self.recon[session][member], behavior, noise, h))
            weights.append(self.weight[member, rows])
        value = oracle.loss(leaf, terms, weights, h)
        value.backward()
        parts = [torch.zeros_like(v).flatten() if v.grad is None else v.grad.flatten() for v in leaf.values()]
        return found, value, torch.cat(parts)


def check(case: Case) -> None:
    """Compare every member's latents, loss and gradient with the oracle's."""
    latents, terms, gradient = case.forward()
    sizes = [data.shape[1] for data in case.encod]
    joint = {"behavior": latents.behavior, **vars(latents.decoded)}
    for m in range(M):
        found, value, want = case.naive(m)
        for session, own in enumerate(found):
            close(latents.outputs[session][m], own["outputs"])
            for key in ("behavior", "factors", "gen_states", "co_means", "co_log_vars", "con_states"):
                if key in own:
                    close(joint[key].split(sizes, dim=1)[session][m], own[key])
        close(terms.loss[m], value)
        assert bool(torch.isfinite(want).all()) and want.abs().max() > 0.01
        close(gradient[m], want)


def close(got: Tensor, want: Tensor) -> None:
    """Compare to 1e-10."""
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def _observed(data: tuple[Tensor, ...], *, always: bool = False) -> tuple[Tensor, ...] | None:
    masks = tuple((~values.isnan()).to(F64) for values in data)
    return masks if always or any(not bool(mask.all()) for mask in masks) else None


def draw(
    arch: Arch,
    *,
    bins: int = 7,
    forward: int = 0,
    neurons: tuple[int, ...] = (6,),
    held_out: int = 0,
    trials: tuple[int, ...] = (5,),
    behavior_dim: int = 2,
    ext_dim: int = 0,
    seed: int = 3,
    **others,
) -> Case:
    """Return a random case in which every mask and draw is in use, and the last trials of one member are padding."""
    generator = torch.Generator().manual_seed(seed)
    widths = Widths(
        num_bins=bins, num_recon_bins=bins + forward, num_neurons=neurons,
        num_recon_neurons=tuple(n + held_out for n in neurons), behavior_dim=behavior_dim, ext_input_dim=ext_dim,
    )  # fmt: skip
    params = initial_params(arch, widths, range(M), dtype=F64)
    rows = params.flat + 0.2 * torch.randn(params.flat.shape, generator=generator, dtype=F64)
    total = sum(trials)
    shapes = [(M, count, bins + forward, n) for count, n in zip(trials, widths.num_recon_neurons, strict=True)]
    recon = tuple(_data(arch.reconstruction, shape, generator, arch) for shape in shapes)
    weight = torch.ones(M, total, dtype=F64)
    weight[1, -2:] = 0
    behavior_shape = (M, total, bins + forward, behavior_dim)
    return Case(
        arch=arch, widths=widths, params=Params(rows, params.shapes, requires_grad=True),
        noise=_noise(arch, widths, trials, generator), recon=recon, weight=weight,
        encod=_seen(recon, widths),
        behavior=_data(arch.behavior_likelihood, behavior_shape, generator, arch) if behavior_dim else None,
        ext_input=torch.randn((M, total, bins, ext_dim), generator=generator, dtype=F64) if ext_dim else None,
        **others,
    )  # fmt: skip


def without(case: Case, *, recon: str = "", behavior: str = "") -> Case:
    """Return the case with counts or behaviour not observed: of single "bin"s, "channel"s, "trial"s or a "session"."""
    if recon:
        data = [values.clone() for values in case.recon]
        _lose(data[-1] if recon == "session" else data[0], recon)
        case = replace(case, recon=tuple(data), encod=_seen(tuple(data), case.widths))
    if behavior:
        last = case.encod[-1].shape[1]
        values = case.behavior.clone()
        _lose(values[:, -last:] if behavior == "session" else values, behavior)
        case = replace(case, behavior=values)
    return case


def _seen(recon: tuple[Tensor, ...], widths: Widths) -> tuple[Tensor, ...]:
    """Return what the encoders see: the first bins and neurons, 0 where nothing was observed, never very large."""
    pairs = zip(recon, widths.num_neurons, strict=True)
    return tuple(data[:, :, : widths.num_bins, :n].nan_to_num(0.0).clamp(max=4) for data, n in pairs)


def _lose(values: Tensor, what: str) -> None:
    """Put NaN into (M, B, R, ·), other places in each member where single values are meant."""
    for m in range(M):
        if what == "bin":
            values[m, m, 2] = math.nan
            values[m, 1, 4, 1] = math.nan
        elif what == "channel":
            values[m, :, :, m % 2] = math.nan
        elif what == "trial":
            values[m, [m, m + 1]] = math.nan
        else:
            values[m] = math.nan


def _data(kind: str, shape: tuple[int, ...], generator: torch.Generator, arch: Arch) -> Tensor:
    uniform = torch.rand(shape, generator=generator, dtype=F64)
    if kind == "poisson":
        return torch.poisson(2 * uniform, generator=generator)
    if kind == "categorical":
        return (arch.behavior_classes * uniform).floor()
    if kind == "gamma":
        return 0.1 + 2 * uniform
    if kind == "zero_inflated_gamma":
        return torch.where(uniform < 0.4, 0.0, arch.gamma_loc + 0.1 + uniform)
    return torch.randn(shape, generator=generator, dtype=F64)


def _noise(arch: Arch, widths: Widths, trials: tuple[int, ...], generator: torch.Generator) -> Noise:
    total, bins, recon_bins, segment = sum(trials), widths.num_bins, widths.num_recon_bins, arch.ic_enc_seq_len
    control, con = arch.ci_enc_dim * (1 if arch.causal_con else 2) + arch.fac_dim, has_controller(arch)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=F64)

    def mask(*shape: int, rate: float = 0.3, scaled: bool = True) -> Tensor:
        kept = torch.rand(shape, generator=generator, dtype=F64) >= rate
        return kept * (1 / (1 - rate) if scaled else 1.0)

    def coordinated(**how) -> tuple[Tensor, ...]:
        masks = [mask(M, count, bins, n, **how) for count, n in zip(trials, widths.num_neurons, strict=True)]
        for values in masks:
            values[:, :, :segment] = 1  # the initial condition's own segment is seen whole
        return tuple(masks)

    return Noise(
        eps_ic=normal(M, total, arch.ic_dim), eps_co=normal(M, total, recon_bins, arch.co_dim) if con else None,
        kl_ic=normal(M, total, arch.ic_dim), kl_co=normal(M, total, recon_bins, arch.co_dim) if con else None,
        cd_keep=coordinated(), cd_pass=coordinated(rate=0.8, scaled=False),
        encoder=mask(M, total, bins, encoder_width(arch, widths)), ic=mask(M, total, 2 * arch.ic_enc_dim),
        ext_input=mask(M, total, recon_bins, widths.ext_input_dim) if widths.ext_input_dim else None,
        controller=mask(M, total, recon_bins, control) if con else None,
        gen_init=mask(M, total, arch.gen_dim) if con else None, generator=mask(M, total, recon_bins, arch.gen_dim),
        behavior=mask(M, total, recon_bins, arch.fac_dim) if widths.behavior_dim else None,
    )  # fmt: skip
