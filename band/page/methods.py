"""The paragraph of methods with the numbers of these runs, and what it cites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from band.sweep.collect import WEIGHT, PublishedRun
from band.sweep.effects import order
from band.sweep.report import show

MOST_WORDS = 6  # values of a swept parameter that are named one by one


class Citation(NamedTuple):
    """A paper, and where it is found."""

    words: str
    address: str


CITATIONS = {
    "lfads": Citation(
        "Pandarinath, C. et al. Inferring single-trial neural population dynamics using sequential auto-encoders. "
        "Nature Methods 15, 805-815 (2018).",
        "https://doi.org/10.1038/s41592-018-0109-9",
    ),
    "band": Citation(
        "Kudryashova, N., Hurwitz, C., Perich, M. G. & Hennig, M. H. BAND: Behavior-Aligned Neural Dynamics is all you "
        "need to capture motor corrections. bioRxiv (2025).",
        "",
    ),
    "autolfads": Citation(
        "Keshtkaran, M. R. et al. A large-scale neural network training framework for generalized estimation of "
        "single-trial population dynamics. Nature Methods 19, 1572-1577 (2022).",
        "https://doi.org/10.1038/s41592-022-01675-0",
    ),
    "lfads_torch": Citation(
        "Sedler, A. R. & Pandarinath, C. lfads-torch: A modular and extensible implementation of latent factor "
        "analysis via dynamical systems. arXiv:2309.01230 (2023).",
        "https://arxiv.org/abs/2309.01230",
    ),
    "nlb": Citation(
        "Pei, F. et al. Neural Latents Benchmark '21: Evaluating latent variable models of neural population activity. "
        "NeurIPS Datasets and Benchmarks (2021).",
        "https://arxiv.org/abs/2109.04463",
    ),
    "adamw": Citation(
        "Loshchilov, I. & Hutter, F. Decoupled weight decay regularization. ICLR (2019).",
        "https://arxiv.org/abs/1711.05101",
    ),
    "folds": Citation(
        "Nadeau, C. & Bengio, Y. Inference for the generalization error. Machine Learning 52, 239-281 (2003).",
        "https://doi.org/10.1023/A:1024068626366",
    ),
}


class Values:
    """The values that the runs have of each parameter, in words: "0.004", "0.1 or 1", "17 values from 1e-3 to 1e-2"."""

    def __init__(self, runs: Sequence[PublishedRun]) -> None:
        """Look at these runs."""
        self.runs = runs

    def all(self, key: str) -> list[Any]:
        """Return the distinct values of a parameter, small to large."""
        return order(run.parameters[key] for run in self.runs if key in run.parameters)

    def __call__(self, key: str) -> str:
        """Return them in words."""
        values = [show(value) for value in self.all(key)]
        if len(values) > MOST_WORDS:
            return f"{len(values)} values from {values[0]} to {values[-1]}"
        return " or ".join([", ".join(values[:-1]), values[-1]] if len(values) > 1 else values) or "unknown"

    def has(self, key: str) -> bool:
        """Return whether any run has anything but nothing there."""
        return any(value not in (0, "", None, False) for value in self.all(key))


def paragraphs(runs: Sequence[PublishedRun], datasets: Sequence[Mapping[str, Any]], *, has_lineage: bool) -> list[str]:
    """Return the methods as paragraphs of plain text, with the numbers of these runs."""
    value = Values(runs)
    return [
        " ".join([*_recordings(runs, datasets), *_splits(runs, value)]),
        " ".join(_model(runs, value)),
        " ".join(_training(runs, value, has_lineage=has_lineage)),
        " ".join(_scoring(runs)),
    ]


def citations(runs: Sequence[PublishedRun], *, has_lineage: bool) -> list[Citation]:
    """Return what these methods rest on."""
    value = Values(runs)
    names = ["lfads"]
    names += ["band"] * value.has(WEIGHT)
    names += ["autolfads"] * (has_lineage or value.has("hyper.cd_rate"))
    names += ["lfads_torch", "nlb", "adamw"]
    names += ["folds"] * (len(value.all("data.fold")) > 1)
    return [CITATIONS[name] for name in names]


def shapes_of(dataset: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """Return trials, bins and neurons of the recorded counts of a data set, split by split as shipped."""
    found = []
    for arrays in (dataset.get("shapes") or {}).values():
        for name, shape in arrays.items() if isinstance(arrays, Mapping) else ():
            if str(name).endswith("encod_data") and len(shape) == 3:
                found.append((int(shape[0]), int(shape[1]), int(shape[2])))
    return found


def _recordings(runs: Sequence[PublishedRun], datasets: Sequence[Mapping[str, Any]]) -> list[str]:
    by_digest = {run.dataset.get("digest"): run for run in runs}
    found = []
    for dataset in datasets:
        run, shapes = by_digest.get(dataset.get("digest")), shapes_of(dataset)
        if run is None or not shapes:
            continue
        bins = sorted({bins for _, bins, _ in shapes})
        neurons = sorted({neurons for _, _, neurons in shapes})
        width = run.parameters.get("data.bin_ms")
        found.append(
            f"Recording {show(run.session)} has {sum(trials for trials, _, _ in shapes)} trials of "
            f"{_either(bins)} bins{f' of {width:g} ms' if width else ''} and {_either(neurons)} neurons."
        )
    return found


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(str(number) for number in numbers)


def _splits(runs: Sequence[PublishedRun], value: Values) -> list[str]:
    counts = dict.fromkeys(
        (run.split["train"], run.split["valid"], run.split["test"], show(run.split.get("how", ""))) for run in runs
    )
    (train, valid, test, how), *others = counts
    more = f" (and {len(others)} further divisions)" if others else ""
    words = [f"{train} trials trained, {valid} chose and {test} tested{more}: {how}."]
    if value.has("data.heldout_share"):
        words.append(f"A share of {value('data.heldout_share')} of the neurons was held out.")
    if value.has("data.forward_bins"):
        words.append(f"The last {value('data.forward_bins')} bins were predicted forward.")
    return words


def _model(runs: Sequence[PublishedRun], value: Values) -> list[str]:
    kinds = {run.weight > 0 for run in runs}
    names = {frozenset({False}): "LFADS", frozenset({True}): "BAND"}.get(frozenset(kinds), "LFADS and BAND")
    words = [
        f"{names} models had a generator of {value('arch.gen_dim')} gated recurrent units, {value('arch.fac_dim')} "
        f"factors, an initial condition of {value('arch.ic_dim')} dimensions (encoder: {value('arch.ic_enc_dim')} "
        "units a direction)"
    ]
    if value.has("arch.co_dim"):
        words[-1] += (
            f", {value('arch.co_dim')} inferred inputs from a controller of {value('arch.con_dim')} units (encoder: "
            f"{value('arch.ci_enc_dim')} units a direction; lag {value('arch.ci_lag')} bins; prior: "
            f"{value('arch.co_prior')})."
        )
    else:
        words[-1] += ", and no controller."
    words.append(f"Reconstruction: {value('arch.reconstruction')}.")
    if True in kinds:
        weights = " or ".join(f"{w:g}" for w in sorted({run.weight for run in runs if run.weight > 0}))
        words.append(
            f"BAND adds the loss of a linear decoder of behaviour from factors ({value('arch.behavior_decoder')}; "
            f"{value('arch.behavior_likelihood')}) with weight {weights}; LFADS has weight 0 and is equal in all else: "
            "initial weights, minibatches and noise."
        )
    return words


def _training(runs: Sequence[PublishedRun], value: Values, *, has_lineage: bool) -> list[str]:
    patience = value("train.stop_patience") if value.has("train.stop_patience") else None
    words = [
        f"Training used AdamW (step size {value('hyper.lr')}, beta {value('hyper.adam_beta1')} and "
        f"{value('hyper.adam_beta2')}, epsilon {value('hyper.adam_epsilon')}, weight decay "
        f"{value('hyper.weight_decay')}), batches of {value('train.batch_size')} trials and gradients clipped at norm "
        f"{value('hyper.grad_clip')}.",
        f"The step size fell by a factor of {value('hyper.lr_decay')} after {value('hyper.lr_patience')} epochs "
        "without improvement.",
        f"KL terms (weights {value('hyper.kl_ic_scale')} for the initial condition, {value('hyper.kl_co_scale')} for "
        f"inferred inputs) grew linearly over {value('hyper.kl_increase_epoch')} epochs from epoch "
        f"{value('hyper.kl_start_epoch')}.",
        f"Dropout {value('hyper.dropout_rate')}; coordinated dropout {value('hyper.cd_rate')}.",
        f"Training ended after {value('train.max_epochs')} epochs"
        + (f", {patience} epochs without improvement of {value('train.monitor')}" if patience else "")
        + f", or at a step size below {value('hyper.lr_stop')}.",
        f"The parameters of the epoch with the best smoothed {value('train.monitor')} were kept, counted from where "
        f"all ramps had ended; outputs are means of {value('train.posterior_samples')} posterior draws.",
    ]
    if has_lineage:
        words.append("Hyperparameters were adapted by population-based training.")
    seeds = len(value.all("seed"))
    return [*words, f"{len(runs)} runs, {seeds} seed{'s' if seeds > 1 else ''}."]


def _scoring(runs: Sequence[PublishedRun]) -> list[str]:
    versions = [run.provenance.get("versions") or {} for run in runs]
    torch = " or ".join(sorted({show(found["torch"]) for found in versions if "torch" in found}))
    return [
        "Bits per spike is the gain in Poisson log-likelihood over each neuron's mean rate, pooled over the split.",
        "Behaviour R² by ridge reads factors by ridge regression fitted on train trials alone, its penalty chosen by "
        "cross-validation within them; it is the mean over channels.",
        "Settings were chosen on valid and all scores are of test.",
        "Differences are paired by recording, fold and seed; intervals are 95 % t intervals over recordings or, "
        "corrected for shared training trials, over folds, and given from five on.",
        f"Computed with PyTorch {torch}." if torch else "",
    ]
