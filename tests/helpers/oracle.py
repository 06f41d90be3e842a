"""A naive LFADS/BAND of one member: bin by bin from the definitions, plain autograd, nothing shared with `band`.

Densities are those of torch.distributions. Axes: B trial, T time bin of the encoders, R >= T reconstructed bin, N
neuron. Parameters come as a dict of one member's tensors under the package's names; NaN is what was not observed.
"""

from __future__ import annotations

import math

import torch
from torch import distributions as dist


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


def session_params(p, session):
    """Return the parameters that one session's trials meet, under the names of a model of that session alone."""
    rooms = ("readin", "readout", "recon")
    own = {f"{room}.{session}.": f"{room}." for room in rooms}
    kept = {k: v for k, v in p.items() if k.split(".")[0] not in rooms}
    return kept | {new + k[len(old) :]: v for k, v in p.items() for old, new in own.items() if k.startswith(old)}


def run(p, data, noise, *, lag, causal, clip, var_min, ext=None, co_off=False, segment=0, bins=None, decoder="trial"):
    """Return a dict of latents for `data` (B, T, N); `noise` holds draws and masks, absent ones leave that part out.

    `segment`: first bins, which the ic encoder alone sees, and it sees no other. `bins`: R, where it is not T.
    `decoder`: "trial", "bin", or the number of earlier bins that a bin of behaviour is told from.
    """

    def masked(value, key, t=None):
        mask = noise.get(key)
        return value if mask is None else value * (mask if t is None else mask[:, t])

    bins = bins or data.shape[1]
    x = masked(data, "cd_keep")
    if "readin.weight" in p:
        x = x @ p["readin.weight"].T + p["readin.bias"]
    x = masked(x, "encoder")
    forward, backward = bidirectional(x[:, :segment] if segment else x, p, "ic_enc", clip)
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
        ci_forward, ci_backward = (
            dict(enumerate(states, start=segment)) for states in bidirectional(x[:, segment:], p, "ci_enc", clip)
        )
        c = p["con.h0"].expand(data.shape[0], -1)
        none = torch.zeros_like(ci_forward[segment])
    for t in range(bins):
        u = data.new_zeros(data.shape[0], 0)
        if has_controller:
            # Either direction arrives `lag` bins late: what the backward encoder knew at t + lag reaches bin t. Bins
            # of the segment and those after the last that is seen get zeros.
            is_seen = segment <= t < data.shape[1]
            late = ci_forward.get(t - lag, none) if is_seen else none
            early = ci_backward.get(t + lag, none) if is_seen else none
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
            now = ext[:, t] if t < ext.shape[1] else torch.zeros_like(ext[:, 0])
            u = torch.cat((u, masked(now, "ext_input", t)), dim=1)
        g = gru_cell(u, g, p["gen.weight_ih"], p["gen.weight_hh"], p["gen.bias"], clip)
        f = masked(g, "generator", t) @ rows.T
        steps["gen_states"].append(g)
        steps["factors"].append(f)
    out |= {name: torch.stack(values, dim=1) for name, values in steps.items() if values}
    out["outputs"] = out["factors"] @ p["readout.weight"].T + p["readout.bias"]
    if "behavior.weight" in p:
        out["behavior"] = decode_behavior(p, masked(out["factors"], "behavior"), decoder)
    return out


def decode_behavior(p, factors, decoder):
    """Return decoded behaviour (B, R, C) from factors (B, R, F), bin by bin."""
    weight, bias = p["behavior.weight"], p["behavior.bias"]
    trials, bins, dim = factors.shape
    if decoder == "trial":
        return (factors.reshape(trials, -1) @ weight.T + bias).reshape(trials, bins, -1)
    decoded = []
    for t in range(bins):
        value = bias.expand(trials, -1)
        for lag in range(1 + (0 if decoder == "bin" else decoder)):
            if t >= lag:
                value = value + factors[:, t - lag] @ weight[:, lag * dim : (lag + 1) * dim].T
        decoded.append(value)
    return torch.stack(decoded, dim=1)


def nll(kind, outputs, data, scale=None, loc=0.0):
    """Return minus the log density of `data` (n,) under `outputs` (P, n); `scale` (2, n) of the zero-inflated Gamma."""
    if kind == "poisson":
        return -dist.Poisson(outputs[0].exp(), validate_args=False).log_prob(data)
    if kind == "gaussian":
        return -dist.Normal(outputs[0], (0.5 * outputs[1]).exp()).log_prob(data) - 0.5 * math.log(2 * math.pi)
    if kind == "gamma":
        return -dist.Gamma(outputs[0].exp(), outputs[1].exp()).log_prob(data)
    if kind == "mse":
        return (outputs[0] - data) ** 2
    if kind == "categorical":
        return -dist.Categorical(logits=outputs.T, validate_args=False).log_prob(data)
    assert kind == "zero_inflated_gamma"
    alpha, beta, q = outputs.sigmoid().clamp(min=1e-5)  # the floor is part of the published definition
    positive = data > 0
    values = (1 - q).log()
    gamma = dist.Gamma(alpha[positive] * scale[0, positive], beta[positive] * scale[1, positive])
    return -values.masked_scatter(positive, q[positive].log() + gamma.log_prob(data[positive] - loc))


def summed(kind, outputs, data, hidden=None, scale=None, loc=0.0, mean=False):
    """Return the loss (B,) of outputs (B, R, P N) on data (B, R, N); what is not hidden passes no gradient."""
    channels = data.shape[2]
    parts = torch.stack([outputs[..., i : i + channels] for i in range(0, outputs.shape[2], channels)])
    wide = None if scale is None else scale[:, None, None, :].expand(-1, *data.shape)
    found = []
    for b in range(data.shape[0]):
        there = ~data[b].isnan()
        own = None if wide is None else wide[:, b][:, there]
        values = nll(kind, parts[:, b][:, there], data[b][there], own, loc)
        if hidden is not None:
            values = torch.where(hidden[b][there], values, values.detach())
        found.append(values.sum() / max(1, int(there.sum())) if mean else values.sum())
    return torch.stack(found)


def divergence(p, room, kind, mean, var, draw, h):
    """Return the divergence (B,), or (B, R) where the prior has no memory, of posterior from prior."""
    if kind == "normal":
        posterior, prior = dist.Normal(mean, var.sqrt()), dist.Normal(p[f"{room}.mean"], math.sqrt(h[f"{room}_var"]))
        return dist.kl_divergence(posterior, prior).sum(dim=-1)
    sample = mean + var.sqrt() * draw
    if kind == "student_t":
        posterior = dist.StudentT(h["prior_df"], mean, var.sqrt())
        prior = dist.StudentT(h["prior_df"], p[f"{room}.loc"], p[f"{room}.logscale"].exp())
        return (posterior.log_prob(sample) - prior.log_prob(sample)).sum(dim=-1)
    assert kind == "autoregressive"
    log_posterior = dist.Normal(mean, var.sqrt()).log_prob(sample).sum(dim=(1, 2))
    bins = torch.arange(mean.shape[1], dtype=mean.dtype)
    distance = (bins[:, None] - bins[None]).abs()
    for d in range(mean.shape[2]):
        tau, innovation = p[f"{room}.logtaus"][d].exp(), p[f"{room}.lognvars"][d].exp()
        covariance = innovation / (1 - (-2 / tau).exp()) * (-distance / tau).exp()
        prior = dist.MultivariateNormal(torch.zeros_like(mean[0, :, 0]), covariance)
        log_posterior = log_posterior - prior.log_prob(sample[:, :, d])
    return log_posterior


def trial_terms(p, latents, data, behavior, noise, h):
    """Return {term: (B,)} of one session; `h` holds the weights, kinds, ramps, variances and reductions by name."""
    hidden = None
    if noise.get("cd_keep") is not None:
        hidden = torch.ones_like(data, dtype=torch.bool)
        passes = noise["cd_keep"] == 0
        if noise.get("cd_pass") is not None:
            passes = passes | (noise["cd_pass"] > 0)
        hidden[:, : passes.shape[1], : passes.shape[2]] = passes
    found = {
        "recon": summed(
            h["reconstruction"], latents["outputs"], data, hidden, p.get("recon.scale"), h.get("gamma_loc", 0.0),
            mean=h["reduce_mean"],
        )
    }  # fmt: skip
    found["behavior"] = torch.zeros_like(found["recon"])
    if behavior is not None:
        found["behavior"] = summed(h["behavior_likelihood"], latents["behavior"], behavior, mean=h["reduce_mean"])
    var = latents["ic_log_var"].exp() + h["var_min"]
    found["kl_ic"] = divergence(p, "ic_prior", h["ic_prior"], latents["ic_mean"], var, noise.get("kl_ic"), h)
    if "co_means" in latents:
        var = latents["co_log_vars"].exp()
        kl = divergence(p, "co_prior", h["co_prior"], latents["co_means"], var, noise.get("kl_co"), h)
        kl = kl.sum(dim=1) if kl.dim() == 2 else kl
        found["kl_co"] = kl if h["kl_co_reduce"] == "sum" else kl / latents["co_means"].shape[1]
    return found


def loss(p, sessions, weights, h):
    """Return the loss of one member from the terms of each session and its trials' weights (B,)."""

    def over_sessions(name):
        means = [(terms[name] * w).sum() / w.sum() for terms, w in zip(sessions, weights, strict=True)]
        return sum(means) / len(means)

    def over_trials(name):
        total = sum((terms[name] * w).sum() for terms, w in zip(sessions, weights, strict=True))
        return total / sum(w.sum() for w in weights)

    total = over_sessions("recon") + h["behavior_weight"] * over_sessions("behavior")
    for room in ("ic", "co"):
        if f"kl_{room}" in sessions[0]:
            kl = over_trials(f"kl_{room}") - h[f"kl_{room}_target"]
            total = total + h["kl_ramp"] * h[f"kl_{room}_scale"] * torch.clamp(kl, min=0)
    penalty, count = 0.0, 0
    for room in ("ic_enc", "ci_enc", "gen", "con"):
        scale = h[f"l2_{room}"]
        if scale > 0 and f"{room}.weight_hh" in p:
            penalty = penalty + scale * 0.5 * p[f"{room}.weight_hh"].square().sum()
            count += p[f"{room}.weight_hh"].numel()
    pull = [(v - h["gamma_scale_prior"]).square().sum() for k, v in p.items() if k.startswith("recon") and "scale" in k]
    total = total + h["l2_ramp"] * (penalty / (count + 1e-8) + 0.5 * h.get("gamma_scale_penalty", 0.0) * sum(pull))
    return h["loss_scale"] * total
