"""The population model in float64 against a naive one-member model, every mask and draw in use."""

from __future__ import annotations

import oracle
import pytest
import torch

from band.config import Arch
from band.model.forward import Batch, Scales, compute_losses, run_model
from band.model.losses import count_constant
from band.model.noise import Noise
from band.model.params import Params, Widths, has_controller, initial_params

F64 = torch.float64
M, B, T, N, K, E = 3, 5, 7, 6, 2, 2
ARCHS = {
    "causal": Arch(ic_enc_dim=5, ci_enc_dim=5, con_dim=4, co_dim=2, ic_dim=3, gen_dim=6, fac_dim=4),
    "bidirectional": Arch(
        ic_enc_dim=5, ci_enc_dim=4, con_dim=4, co_dim=2, ic_dim=3, gen_dim=6, fac_dim=4, ci_lag=2, causal_con=False
    ),
    "clipped": Arch(ic_enc_dim=5, ci_enc_dim=5, con_dim=4, co_dim=2, ic_dim=3, gen_dim=6, fac_dim=4, cell_clip=0.3),
    "no controller": Arch(ic_enc_dim=5, ci_enc_dim=4, con_dim=4, co_dim=0, ic_dim=3, gen_dim=6, fac_dim=4),
}  # fmt: skip


def draw_everything(arch: Arch, ext_dim: int, generator: torch.Generator) -> tuple[Params, Batch, Noise]:
    """Return random parameters, data and every mask there is."""
    widths = Widths(
        num_bins=T, num_recon_bins=T, num_neurons=(N,), num_recon_neurons=(N,), behavior_dim=K, ext_input_dim=ext_dim
    )
    params = initial_params(arch, widths, range(M), dtype=F64)
    rows = params.flat + 0.2 * torch.randn(params.flat.shape, generator=generator, dtype=F64)
    params = Params(rows, params.shapes, requires_grad=True)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=F64)

    def mask(*shape, rate=0.3, scaled=True):
        kept = torch.rand(shape, generator=generator, dtype=F64) >= rate
        return kept * (1 / (1 - rate) if scaled else 1.0)

    recon = torch.poisson(torch.rand((M, B, T, N), generator=generator, dtype=F64) * 2, generator=generator)
    weight = torch.ones(M, B, dtype=F64)
    weight[1, -2:] = 0
    batch = Batch(
        encod=(recon,), recon=(recon,), weight=weight, behavior=normal(M, B, T, K),
        recon_constant=count_constant(recon),
        ext_input=normal(M, B, T, ext_dim) if ext_dim else None,
    )  # fmt: skip
    control = arch.ci_enc_dim * (1 if arch.causal_con else 2) + arch.fac_dim
    con = has_controller(arch)
    noise = Noise(
        eps_ic=normal(M, B, arch.ic_dim), eps_co=normal(M, B, T, arch.co_dim) if con else None,
        cd_keep=(mask(M, B, T, N),), cd_pass=(mask(M, B, T, N, rate=0.8, scaled=False),), encoder=mask(M, B, T, N),
        ic=mask(M, B, 2 * arch.ic_enc_dim), ext_input=mask(M, B, T, ext_dim) if ext_dim else None,
        controller=mask(M, B, T, control) if con else None, gen_init=mask(M, B, arch.gen_dim) if con else None,
        generator=mask(M, B, T, arch.gen_dim), behavior=mask(M, B, T, arch.fac_dim),
    )  # fmt: skip
    return params, batch, noise


def loss_weights(member: int, arch: Arch) -> dict:
    """Return weights, targets and ramps that differ between members."""
    return {
        "behavior_weight": (0.0, 0.7, 1.3)[member], "kl_ic_scale": 1.0 + member, "kl_co_scale": 0.5 * (1 + member),
        "kl_ic_target": 0.1 * member, "kl_co_target": 0.05, "l2_ic_enc": 3.0 * member, "l2_ci_enc": 2.0,
        "l2_gen": 50.0, "l2_con": 0.0, "kl_ramp": 0.3 + 0.1 * member, "l2_ramp": 0.6, "loss_scale": 2.0,
        "reduce_mean": False, "kl_co_reduce": "sum", "var_min": arch.ic_post_var_min,
        "ic_prior_var": arch.ic_prior_var, "co_prior_var": arch.co_prior_var,
    }  # fmt: skip


@pytest.mark.parametrize("reductions", [(False, "sum"), (True, "mean")], ids=["sum", "mean"])
@pytest.mark.parametrize("ext_dim", [0, E], ids=["no external input", "external input"])
@pytest.mark.parametrize("name", ARCHS)
def test_every_member_equals_the_naive_model_in_values_and_gradients(name, ext_dim, reductions):
    arch = ARCHS[name]
    params, batch, noise = draw_everything(arch, ext_dim, torch.Generator().manual_seed(3))
    weights = [loss_weights(m, arch) | {"reduce_mean": reductions[0], "kl_co_reduce": reductions[1]} for m in range(M)]

    def stacked(key):
        return torch.tensor([w[key] for w in weights], dtype=F64)

    scales = Scales(
        **{k: stacked(k) for k in ("behavior_weight", "kl_ic_scale", "kl_co_scale", "kl_ic_target", "kl_co_target")},
        l2={room: stacked(f"l2_{room}") for room in ("ic_enc", "ci_enc", "gen", "con")},
        loss_scale=2.0, recon_reduce_mean=reductions[0], kl_co_reduce=reductions[1],
    )  # fmt: skip
    widths = Widths(
        num_bins=T, num_recon_bins=T, num_neurons=(N,), num_recon_neurons=(N,), behavior_dim=K, ext_input_dim=ext_dim
    )
    latents = run_model(params, batch, arch=arch, widths=widths, noise=noise)
    terms = compute_losses(
        params, latents, batch, arch=arch, scales=scales, kl_ramp=stacked("kl_ramp"), l2_ramp=stacked("l2_ramp"),
        noise=noise,
    )  # fmt: skip
    gradient = params.gradient(terms.loss)
    for m in range(M):
        leaf = {k: v[m].detach().clone().requires_grad_() for k, v in params.items()}
        own = {k: (v[0] if isinstance(v, tuple) else v)[m] for k, v in vars(noise).items() if v is not None}
        found = oracle.run(
            leaf, batch.encod[0][m], own, lag=arch.ci_lag, causal=arch.causal_con, clip=arch.cell_clip,
            var_min=arch.ic_post_var_min, ext=None if batch.ext_input is None else batch.ext_input[m],
        )  # fmt: skip
        value = oracle.loss(leaf, found, batch.recon[0][m], batch.behavior[m], batch.weight[m], own, weights[m])
        value.backward()
        got = {"log_rates": latents.outputs[0], "behavior": latents.behavior, **vars(latents.decoded)}
        for key in ("log_rates", "behavior", "factors", "gen_states", "co_means", "co_log_vars", "con_states"):
            if key in found:
                torch.testing.assert_close(got[key][m], found[key], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(terms.loss[m], value, rtol=1e-10, atol=1e-10)
        want = torch.cat([torch.zeros_like(v).flatten() if v.grad is None else v.grad.flatten() for v in leaf.values()])
        assert want.abs().max() > 0.1
        torch.testing.assert_close(gradient[m], want, rtol=1e-10, atol=1e-10)


def test_inferred_inputs_switched_off_equal_the_naive_model_fed_with_zeros():
    arch = ARCHS["causal"]
    params, batch, _ = draw_everything(arch, 0, torch.Generator().manual_seed(4))
    widths = Widths(num_bins=T, num_recon_bins=T, num_neurons=(N,), num_recon_neurons=(N,), behavior_dim=K)
    latents = run_model(params, batch, arch=arch, widths=widths, noise=Noise(), co_off=True)
    intact = run_model(params, batch, arch=arch, widths=widths, noise=Noise())
    leaf = {k: v[0].detach() for k, v in params.items()}
    found = oracle.run(
        leaf, batch.encod[0][0], {}, lag=arch.ci_lag, causal=True, clip=arch.cell_clip, var_min=0.0, co_off=True
    )
    torch.testing.assert_close(latents.decoded.factors[0], found["factors"], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(latents.decoded.factors, intact.decoded.factors, atol=1e-3)
