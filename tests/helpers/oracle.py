"""A naive LFADS/BAND of one member: bin by bin from the definitions, plain autograd, nothing shared with `band`.

Axes: B trial, T time bin, N neuron. Parameters come as a dict of one member's tensors under the package's names.
"""

from __future__ import annotations

import math

import torch


def gru_cell(x, h, w_ih, w_hh, bias, clip):
    """Return the next state (B, H); gates in the order z, r, n; reset before the recurrent product."""
    size = h.shape[1]
    z, r = (
        torch.sigmoid(
            x @ w_ih[i * size : (i + 1) * size].T
            + h @ w_hh[i * size : (i + 1) * size].T
            + bias[i * size : (i + 1) * size]
        )
        for i in (0, 1)
    )
    n = torch.tanh(x @ w_ih[2 * size :].T + (r * h) @ w_hh[2 * size :].T + bias[2 * size :])
    return torch.clamp(z * h + (1 - z) * n, -clip, clip)


def bidirectional(x, p, name, clip):
    """Return the states of both directions, lists over bins in the order of time."""
    states = []
    for d, order in enumerate((range(x.shape[1]), reversed(range(x.shape[1])))):
        h = p[f"{name}.h0"][d].expand(x.shape[0], -1)
        found = {}
        for t in order:
            h = gru_cell(x[:, t], h, p[f"{name}.weight_ih"][d], p[f"{name}.weight_hh"][d], p[f"{name}.bias"][d], clip)
            found[t] = h
        states.append([found[t] for t in range(x.shape[1])])
    return states


def run(p, data, noise, *, lag, causal, clip, var_min, ext=None, co_off=False):
    """Return a dict of latents for `data` (B, T, N); `noise` holds draws and masks, absent ones leave that part out."""

    def masked(value, key, t=None):
        mask = noise.get(key)
        return value if mask is None else value * (mask if t is None else mask[:, t])

    bins = data.shape[1]
    x = masked(masked(data, "cd_keep"), "encoder")
    forward, backward = bidirectional(x, p, "ic_enc", clip)
    ends = masked(torch.cat((forward[-1], backward[0]), dim=1), "ic")
    ic_mean, ic_log_var = (ends @ p["ic_linear.weight"].T + p["ic_linear.bias"]).chunk(2, dim=1)
    ic = ic_mean
    if noise.get("eps_ic") is not None:
        ic = ic + torch.sqrt(torch.exp(ic_log_var) + var_min) * noise["eps_ic"]
    g = p["ic_to_g0.weight"] @ ic.T
    g = g.T + p["ic_to_g0.bias"]
    rows = p["fac_linear.weight"]
    rows = rows / rows.square().sum(dim=1, keepdim=True).sqrt()
    out = {"ic_mean": ic_mean, "ic_log_var": ic_log_var, "gen_init": g}
    names = ("gen_states", "factors", "co_means", "co_log_vars", "con_states")
    steps = {name: [] for name in names}
    f = masked(g, "gen_init") @ rows.T
    has_controller = "con.h0" in p
    if has_controller:
        ci_forward, ci_backward = bidirectional(x, p, "ci_enc", clip)
        c = p["con.h0"].expand(data.shape[0], -1)
        none = torch.zeros_like(ci_forward[0])
    for t in range(bins):
        u = data.new_zeros(data.shape[0], 0)
        if has_controller:
            late = ci_forward[t - lag] if t >= lag else none
            # Either direction arrives `lag` bins late: what the backward encoder knew at t + lag reaches bin t.
            early = ci_backward[t + lag] if t + lag < bins else none
            seen = torch.cat((late, f) if causal else (late, early, f), dim=1)
            seen = masked(seen, "controller", t)
            if causal:
                seen = torch.cat((seen[:, : late.shape[1]], none, seen[:, late.shape[1] :]), dim=1)
            c = gru_cell(seen, c, p["con.weight_ih"], p["con.weight_hh"], p["con.bias"], clip)
            mean, log_var = (c @ p["co_linear.weight"].T + p["co_linear.bias"]).chunk(2, dim=1)
            u = mean
            if noise.get("eps_co") is not None:
                u = u + torch.exp(log_var).sqrt() * noise["eps_co"][:, t]
            u = torch.zeros_like(u) if co_off else u
            for name, value in (("co_means", mean), ("co_log_vars", log_var), ("con_states", c)):
                steps[name].append(value)
        if ext is not None:
            u = torch.cat((u, masked(ext[:, t], "ext_input", t)), dim=1)
        g = gru_cell(u, g, p["gen.weight_ih"], p["gen.weight_hh"], p["gen.bias"], clip)
        f = masked(g, "generator", t) @ rows.T
        steps["gen_states"].append(g)
        steps["factors"].append(f)
    out |= {name: torch.stack(values, dim=1) for name, values in steps.items() if values}
    out["log_rates"] = out["factors"] @ p["readout.weight"].T + p["readout.bias"]
    if "behavior.weight" in p:
        flat = masked(out["factors"], "behavior").reshape(data.shape[0], -1)
        flat = flat @ p["behavior.weight"].T + p["behavior.bias"]
        out["behavior"] = flat.reshape(data.shape[0], bins, -1)
    return out


def loss(p, latents, data, behavior, weight, noise, h):
    """Return the loss of one member; `h` holds the weights, targets, ramps, variances and reductions by name."""

    def over_trials(values):
        return (values * weight).sum() / weight.sum()

    nll = latents["log_rates"].exp() - data * latents["log_rates"] + torch.lgamma(data + 1)
    if noise.get("cd_keep") is not None:
        hidden = noise["cd_keep"] == 0
        if noise.get("cd_pass") is not None:
            hidden = hidden | (noise["cd_pass"] > 0)
        nll = torch.where(hidden, nll, nll.detach())
    recon = nll.mean(dim=(1, 2)) if h["reduce_mean"] else nll.sum(dim=(1, 2))
    total = over_trials(recon)
    if behavior is not None:
        error = (latents["behavior"] - behavior).square()
        error = error.mean(dim=(1, 2)) if h["reduce_mean"] else error.sum(dim=(1, 2))
        total = total + h["behavior_weight"] * over_trials(error)

    def divergence(mean, var, prior_mean, prior_var):
        posterior = torch.distributions.Normal(mean, var.sqrt())
        prior = torch.distributions.Normal(prior_mean, math.sqrt(prior_var))
        return torch.distributions.kl_divergence(posterior, prior)

    var = latents["ic_log_var"].exp() + h["var_min"]
    kl = over_trials(divergence(latents["ic_mean"], var, p["ic_prior.mean"], h["ic_prior_var"]).sum(dim=1))
    parts = h["kl_ic_scale"] * torch.clamp(kl - h["kl_ic_target"], min=0)
    if "co_means" in latents:
        by_bin = divergence(latents["co_means"], latents["co_log_vars"].exp(), p["co_prior.mean"], h["co_prior_var"])
        by_bin = by_bin.sum(dim=2)
        kl = over_trials(by_bin.sum(dim=1) if h["kl_co_reduce"] == "sum" else by_bin.mean(dim=1))
        parts = parts + h["kl_co_scale"] * torch.clamp(kl - h["kl_co_target"], min=0)
    total = total + h["kl_ramp"] * parts
    penalty, count = 0.0, 0
    for room in ("ic_enc", "ci_enc", "gen", "con"):
        scale = h[f"l2_{room}"]
        if scale > 0 and f"{room}.weight_hh" in p:
            penalty = penalty + scale * 0.5 * p[f"{room}.weight_hh"].square().sum()
            count += p[f"{room}.weight_hh"].numel()
    total = total + h["l2_ramp"] * penalty / (count + 1e-8)
    return h["loss_scale"] * total
