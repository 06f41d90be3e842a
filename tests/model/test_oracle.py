"""The population model in float64 against a naive one-member model, every option, mask and draw in use."""

from __future__ import annotations

import math
from dataclasses import replace

import naive_case
import numpy as np
import oracle
import pytest
import scipy.stats
import torch
from naive_case import F64, check, close, draw, small, without

from band.config import Arch
from band.model.forward import run_model
from band.model.noise import Noise
from band.model.priors import prior_of
from band.model.reconstructions import behavior_likelihood_of, reconstruction_of

ARCHS = {
    "causal": small(),
    "bidirectional": small(ci_enc_dim=4, ci_lag=2, causal_con=False),
    "clipped": small(cell_clip=0.3),
    "no controller": small(ci_enc_dim=4, co_dim=0),
}


@pytest.mark.parametrize("reductions", [(False, "sum"), (True, "mean")], ids=["sum", "mean"])
@pytest.mark.parametrize("ext_dim", [0, 2], ids=["no external input", "external input"])
@pytest.mark.parametrize("name", ARCHS)
def test_every_member_equals_the_naive_model_in_values_and_gradients(name, ext_dim, reductions):
    check(draw(ARCHS[name], ext_dim=ext_dim, reduce_mean=reductions[0], kl_co_reduce=reductions[1]))


OPTIONS = {
    "ic student_t": small(ic_prior="student_t", prior_df=3.5),
    "co student_t": small(co_prior="student_t", co_prior_var=0.3),
    "co autoregressive": small(co_prior="autoregressive", co_prior_tau=4.0),
    "gaussian": small(reconstruction="gaussian"),
    "gamma": small(reconstruction="gamma"),
    "zero-inflated gamma": small(
        reconstruction="zero_inflated_gamma", gamma_loc=12.0, gamma_scale_init=4.0, gamma_scale_prior=5.0,
        gamma_scale_penalty=0.2,
    ),
    "mse": small(reconstruction="mse"),
    "behaviour gaussian": small(behavior_likelihood="gaussian"),
    "behaviour poisson": small(behavior_likelihood="poisson", behavior_decoder="bin"),
    "behaviour categorical": small(behavior_likelihood="categorical", behavior_classes=3),
    "behaviour of a bin": small(behavior_decoder="bin"),
    "behaviour of bins before": small(behavior_decoder="causal_lag", behavior_lags=3),
    "behaviour of more bins than there are": small(behavior_decoder="causal_lag", behavior_lags=9),
    "ic segment": small(ic_enc_seq_len=3),
    "ic segment, both directions": small(ic_enc_seq_len=2, causal_con=False, ci_lag=2, ci_enc_dim=3),
    "read-in": small(readin_dim=4),
}  # fmt: skip


@pytest.mark.parametrize("reductions", [(False, "sum"), (True, "mean")], ids=["sum", "mean"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_equals_the_naive_model(name, reductions):
    check(draw(OPTIONS[name], reduce_mean=reductions[0], kl_co_reduce=reductions[1]))


@pytest.mark.parametrize("name", ["causal", "bidirectional", "no controller"])
def test_forecast_bins_and_held_out_neurons_equal_the_naive_model(name):
    check(draw(ARCHS[name], forward=3, held_out=2, ext_dim=2))
    check(draw(ARCHS[name], forward=3, held_out=2, reduce_mean=True, kl_co_reduce="mean"))


@pytest.mark.parametrize("what", ["bin", "channel", "trial", "session"])
@pytest.mark.parametrize("name", ["causal", "gaussian", "gamma", "zero-inflated gamma", "behaviour categorical"])
def test_what_was_not_observed_is_as_if_it_were_not_there(name, what):
    arch = {**ARCHS, **OPTIONS}[name]
    check(without(draw(arch, forward=2, held_out=1, reduce_mean=what == "channel"), recon=what, behavior=what))


@pytest.mark.parametrize("reduce_mean", [False, True], ids=["sum", "mean"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"reconstruction": "zero_inflated_gamma", "gamma_scale_init": 4.0, "gamma_scale_penalty": 0.3},
     {"co_prior": "autoregressive", "ic_enc_seq_len": 2}],
    ids=["poisson", "zero-inflated gamma", "autoregressive"],
)  # fmt: skip
def test_several_sessions_in_one_model_equal_the_naive_one_run_for_each(changes, reduce_mean):
    case = draw(
        small(readin_dim=4, **changes), neurons=(6, 3, 5), trials=(5, 3, 4), held_out=1, reduce_mean=reduce_mean
    )
    check(case)
    check(without(case, recon="session", behavior="session"))
    check(without(case, behavior="trial"))


@pytest.mark.parametrize("trials_at_once", [1, 2, 3])
@pytest.mark.parametrize("name", ["causal", "bidirectional", "no controller", "read-in", "ic segment"])
def test_some_trials_at_once_and_computed_twice_equal_the_naive_model(name, trials_at_once):
    arch = {**ARCHS, **OPTIONS}[name]
    check(replace(draw(arch, ext_dim=2, forward=2), trials_at_once=trials_at_once))
    sessions = draw(small(readin_dim=4), neurons=(6, 3), trials=(4, 3))
    check(replace(sessions, trials_at_once=trials_at_once))


def test_a_model_without_behaviour_equals_the_naive_one():
    check(draw(small(), behavior_dim=0))


def test_inferred_inputs_switched_off_equal_the_naive_model_fed_with_zeros():
    arch = ARCHS["causal"]
    case = draw(arch, seed=4)
    latents = run_model(case.params, case.batch(), arch=arch, widths=case.widths, noise=Noise(), co_off=True)
    intact = run_model(case.params, case.batch(), arch=arch, widths=case.widths, noise=Noise())
    leaf = {k: v[0].detach() for k, v in case.params.items()}
    found = oracle.run(leaf, case.encod[0][0], {}, lag=1, causal=True, clip=arch.cell_clip, var_min=0.0, co_off=True)
    close(latents.decoded.factors[0], found["factors"])
    assert not torch.allclose(latents.decoded.factors, intact.decoded.factors, atol=1e-3)


def rows(outputs: list[float]) -> torch.Tensor:
    return torch.tensor(outputs, dtype=F64).view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("kind", "outputs", "value", "want"),
    [
        ("poisson", [0.3], 2.0, -scipy.stats.poisson.logpmf(2, math.exp(0.3))),
        ("gaussian", [0.3, -0.7], 1.2, -scipy.stats.norm.logpdf(1.2, 0.3, math.exp(-0.35)) - math.log(2 * math.pi) / 2),
        ("gamma", [0.3, -0.7], 1.2, -scipy.stats.gamma.logpdf(1.2, math.exp(0.3), scale=math.exp(0.7))),
        ("mse", [0.3], 1.2, 0.81),
        ("categorical", [0.3, -0.7, 0.1], 1.0, -math.log(scipy.special.softmax([0.3, -0.7, 0.1])[1])),
    ],
)
def test_a_term_is_minus_the_log_density_of_scipy(kind, outputs, value, want):
    of_behavior = kind == "categorical"
    arch = Arch(**{"behavior_likelihood" if of_behavior else "reconstruction": kind}, behavior_classes=3)
    found = behavior_likelihood_of(arch) if of_behavior else reconstruction_of(arch)
    data = torch.full((1, 1, 1, 1), value, dtype=F64)
    constant = found.constant(data)
    term = found.terms(rows(outputs), data, {}) + (0 if constant is None else constant)
    assert float(term) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.31, 2.0])
def test_the_zero_inflated_gamma_has_the_density_of_its_mixture(value):
    arch = small(reconstruction="zero_inflated_gamma", gamma_loc=0.3)
    outputs, scale = [0.4, -0.2, 0.7], (3.0, 5.0)
    alpha, beta, q = scipy.special.expit(outputs)
    density = scipy.stats.gamma.pdf(value, alpha * scale[0], loc=0.3, scale=1 / (beta * scale[1]))
    own = {"scale": torch.tensor(scale, dtype=F64).view(1, 2, 1)}
    term = reconstruction_of(arch).terms(rows(outputs), torch.full((1, 1, 1, 1), value, dtype=F64), own)
    assert float(term) == pytest.approx(-math.log(1 - q if value == 0 else q * density), rel=1e-12)


@pytest.mark.parametrize("df", [1.5, 5.0])
def test_the_student_t_prior_is_the_ratio_of_two_densities_and_its_draws_have_the_posteriors(df):
    prior = prior_of(small(ic_prior="student_t", prior_df=df, ic_prior_var=0.4), "ic")
    own = {"loc": torch.tensor([[0.2, -0.1]], dtype=F64), "logscale": torch.tensor([[-0.3, 0.4]], dtype=F64)}
    mean, log_var = torch.tensor([[[0.5, 1.0]]], dtype=F64), torch.tensor([[[-0.6, 0.2]]], dtype=F64)
    draws = prior.draw((4000, 2), torch.Generator().manual_seed(0), F64)
    got = prior.divergence(own, mean.expand(1, 4000, 2), log_var.expand(1, 4000, 2), draws[None])[0].numpy()
    sample = (mean + (0.5 * log_var).exp() * draws)[0].numpy()
    t = scipy.stats.t.logpdf
    want = t(sample, df, [0.5, 1.0], np.exp([-0.3, 0.1])) - t(sample, df, [0.2, -0.1], np.exp([-0.3, 0.4]))
    np.testing.assert_allclose(got, want.sum(axis=1), rtol=1e-10, atol=1e-10)
    assert prior.starts() == {"loc": 0.0, "logscale": pytest.approx(0.5 * math.log(0.4))}
    for channel in draws.T.numpy():
        assert scipy.stats.kstest(channel, scipy.stats.t(df).cdf).pvalue > 1e-3
    # An estimate of a divergence: of the posterior from itself it is 0 for every draw, else above 0 on average.
    same = prior.divergence({"loc": mean[0], "logscale": 0.5 * log_var[0]}, mean, log_var, draws[:1][None])
    assert float(same) == pytest.approx(0, abs=1e-12) and got.mean() > 0.1


def test_the_autoregressive_prior_is_a_multivariate_normal_whose_variance_is_that_of_the_process():
    arch = small(co_prior="autoregressive", co_prior_tau=3.0, co_prior_nvar=0.2, co_dim=1)
    prior = prior_of(arch, "co")
    own = {name: torch.full((1, 1), value, dtype=F64) for name, value in prior.starts().items()}
    lags = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    covariance = 0.2 / (1 - math.exp(-2 / 3)) * np.exp(-lags / 3)
    generator = torch.Generator().manual_seed(0)
    mean, log_var, draws = (torch.randn((1, 1, 6, 1), generator=generator, dtype=F64) for _ in range(3))
    sample = (mean + (0.5 * log_var).exp() * draws).flatten().numpy()
    posterior = scipy.stats.norm.logpdf(sample, mean.flatten().numpy(), np.exp(0.5 * log_var.flatten().numpy())).sum()
    want = posterior - scipy.stats.multivariate_normal(np.zeros(6), covariance).logpdf(sample)
    assert float(prior.divergence(own, mean, log_var, draws).sum()) == pytest.approx(want, rel=1e-10)


def test_behaviour_of_few_labelled_trials_has_the_gradient_of_these_trials_alone():
    case = draw(small())
    few = without(case, behavior="trial")
    _, terms, _ = few.forward()
    _, all_terms, _ = case.forward()
    labelled = [b for b in range(5) if not bool(few.behavior[0, b].isnan().any())]
    assert labelled == [2, 3, 4]
    by_trial = []
    for b in range(5):
        only = case.behavior.clone()
        only[:, [other for other in range(5) if other != b]] = math.nan
        by_trial.append(naive_case.replace(case, behavior=only).forward()[1].behavior[0])
    close(sum(by_trial), all_terms.behavior[0])
    close(sum(by_trial[b] for b in labelled), terms.behavior[0])
