"""The configuration of one run, as frozen dataclasses checked where they are made; no torch, no numpy.

A run is data x arch x hyper x train x seed. `Arch` and `TrainConfig` are equal within a population; `Hyper`, the fold
and the seed may differ between its members. Names follow lfads-torch where it has one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from band.errors import ConfigError, did_you_mean
from band.search import Space, read_space

SPLITS = ("auto", "shipped", "stratified", "blocked", "grouped")
MONITORS = (
    "valid_recon", "valid_behavior", "valid_loss", "valid_bits_per_spike", "valid_behavior_r2", "valid_recon_sv",
    "valid_band",
)  # fmt: skip
LEVELS = ("scores", "factors", "full")
RECONSTRUCTIONS = ("poisson", "poisson_stirling", "gaussian", "gamma", "zero_inflated_gamma", "mse")
IC_PRIORS = ("normal", "student_t", "student_t_lfads_torch")
CO_PRIORS = ("normal", "autoregressive", "student_t", "student_t_lfads_torch")
BEHAVIOR_DECODERS = ("trial", "bin", "causal_lag")
BEHAVIOR_LIKELIHOODS = ("mse", "gaussian", "poisson", "categorical")
AUGMENTATIONS = ("jitter", "shift")
READINS = ("trained", "fixed", "pcr_trained", "pcr_fixed")
SELECTIONS = ("tournament", "truncation")


def _require(ok: bool, key: str, rule: str, got: object) -> None:
    if not ok:
        raise ConfigError(f"{key} must be {rule}, got {got!r}")


def _require_option(name: str, known: tuple[str, ...], key: str) -> None:
    """Check the name of an option: one of the package's, or `module:Class` of a user's own."""
    module, colon, attribute = name.partition(":")
    own = bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))
    _require(own or name in known, key, f"one of {', '.join(known)}, or module:Class of your own", name)


def option_names(names: str) -> tuple[str, ...]:
    """Return the options that a field names, separated by commas."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which recording, and which of its trials train, choose and test."""

    path: str = ""  # HDF5 file in the layout of lfads-torch
    bin_ms: float | None = None  # width of a time bin; None: the file's own attribute
    split: str = "auto"  # auto: as shipped, else stratified by condition, else blocked
    fold: int = 0  # which of num_folds is the test fold
    num_folds: int = 1  # 1: one split, no folds
    valid_share: float = 0.2  # share of trials that choose, where they are cut here
    test_share: float = 0.2  # share of trials that are reported, where they are cut here
    split_seed: int = 0
    guard_trials: int = 1  # blocked: trials dropped on either side of a cut between blocks
    missing: str = "auto"  # NaN in counts or behaviour; mask: not observed; auto: refused unless the file declares it
    heldout_share: float = 0.0  # share of neurons hidden from the encoders and predicted all the same: co-bps
    heldout_seed: int = 0  # draws them
    forward_bins: int = 0  # last bins, hidden from the encoders and predicted all the same: fp-bps
    group_key: str = ""  # grouped: dataset with one group label a trial, without its split prefix

    def __post_init__(self) -> None:
        _require(self.split in SPLITS, "data.split", f"one of {', '.join(SPLITS)}", self.split)
        _require(self.num_folds >= 1 and self.num_folds != 2, "data.num_folds", "1, or at least 3", self.num_folds)
        _require(0 <= self.fold < self.num_folds, "data.fold", f"in [0, data.num_folds = {self.num_folds})", self.fold)
        _require(0 < self.valid_share < 1, "data.valid_share", "in (0, 1)", self.valid_share)
        _require(0 < self.test_share < 1, "data.test_share", "in (0, 1)", self.test_share)
        shares = self.valid_share + self.test_share
        _require(shares < 1, "data.valid_share + data.test_share", "below 1", shares)
        _require(self.guard_trials >= 0, "data.guard_trials", "at least 0", self.guard_trials)
        _require(self.bin_ms is None or self.bin_ms > 0, "data.bin_ms", "above 0", self.bin_ms)
        _require(self.missing in ("auto", "mask"), "data.missing", "auto or mask", self.missing)
        _require(0 <= self.heldout_share < 1, "data.heldout_share", "in [0, 1)", self.heldout_share)
        _require(self.heldout_seed >= 0, "data.heldout_seed", "at least 0", self.heldout_seed)
        _require(self.forward_bins >= 0, "data.forward_bins", "at least 0", self.forward_bins)
        grouped = self.split != "grouped" or bool(self.group_key)
        _require(grouped, "data.group_key", "given where data.split is grouped", self.group_key)


@dataclass(frozen=True, kw_only=True)
class Arch:
    """Sizes and fixed choices of the model, equal within a population; widths of the data are read from the file."""

    ic_enc_seq_len: int = 0  # first bins, which the initial-condition encoder alone sees; 0: it sees every bin
    ic_enc_dim: int = 64  # initial-condition encoder, units a direction
    ci_enc_dim: int = 64  # controller-input encoder, units a direction
    ci_lag: int = 1  # bins by which the controller input is delayed
    causal_con: bool = True  # zero the backward half of the controller input
    con_dim: int = 64  # controller units
    co_dim: int = 4  # controller outputs = inferred inputs; 0: no controller
    ic_dim: int = 64  # initial condition
    gen_dim: int = 100  # generator units
    fac_dim: int = 40  # factors
    cell_clip: float = 5.0  # bound of every recurrent state
    ic_post_var_min: float = 1e-4  # floor of the initial condition's posterior variance
    ic_prior: str = "normal"  # of the initial condition; or student_t
    ic_prior_var: float = 0.1  # its variance, fixed; student_t: its squared scale at the start
    co_prior: str = "normal"  # of the controller output; or autoregressive, student_t
    co_prior_var: float = 0.1  # its variance, fixed; student_t: its squared scale at the start
    co_prior_tau: float = 10.0  # autoregressive: time constant in bins at the start
    co_prior_nvar: float = 0.1  # autoregressive: variance of the innovation at the start, not of the process
    prior_df: float = 5.0  # student_t: degrees of freedom of prior and posterior, fixed
    reconstruction: str = "poisson"  # likelihood of the recorded data; band/model/reconstructions has them
    gamma_loc: float = 0.0  # zero_inflated_gamma: smallest value that is not zero
    gamma_scale_init: float = 20.0  # zero_inflated_gamma: scale of shape and rate at the start
    gamma_scale_prior: float = 20.0  # zero_inflated_gamma: where the penalty pulls the scale
    gamma_scale_penalty: float = 0.0  # zero_inflated_gamma: weight of that penalty
    behavior_decoder: str = "trial"  # factors of which bins tell a bin of behaviour: all, its own (bin), causal_lag
    behavior_lags: int = 5  # causal_lag: bins before, beside its own
    behavior_likelihood: str = "mse"  # loss of behaviour; or gaussian, poisson, categorical
    behavior_classes: int = 2  # categorical: classes 0, 1, …
    readin: str = "trained"  # several sessions: linear map of each session's neurons to readin_dim channels
    readin_dim: int = 0  # channels that the encoders see; 0: one session, whose neurons they see as they are

    def __post_init__(self) -> None:
        for name in ("ic_enc_dim", "ci_enc_dim", "con_dim", "ic_dim", "gen_dim", "fac_dim"):
            _require(getattr(self, name) >= 1, f"arch.{name}", "at least 1", getattr(self, name))
        sizes = ("ci_lag", "co_dim", "ic_enc_seq_len", "readin_dim", "behavior_lags")
        for name in (*sizes, "gamma_loc", "gamma_scale_penalty"):
            _require(getattr(self, name) >= 0, f"arch.{name}", "at least 0", getattr(self, name))
        variances = ("cell_clip", "ic_prior_var", "co_prior_var", "co_prior_tau", "co_prior_nvar", "prior_df")
        for name in (*variances, "gamma_scale_init", "gamma_scale_prior"):
            _require(getattr(self, name) > 0, f"arch.{name}", "above 0", getattr(self, name))
        _require(self.ic_post_var_min >= 0, "arch.ic_post_var_min", "at least 0", self.ic_post_var_min)
        _require_option(self.reconstruction, RECONSTRUCTIONS, "arch.reconstruction")
        _require_option(self.ic_prior, IC_PRIORS, "arch.ic_prior")
        _require_option(self.co_prior, CO_PRIORS, "arch.co_prior")
        _require_option(self.behavior_decoder, BEHAVIOR_DECODERS, "arch.behavior_decoder")
        _require_option(self.behavior_likelihood, BEHAVIOR_LIKELIHOODS, "arch.behavior_likelihood")
        _require(self.behavior_classes >= 2, "arch.behavior_classes", "at least 2", self.behavior_classes)
        _require(self.readin in READINS, "arch.readin", f"one of {', '.join(READINS)}", self.readin)


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """What may differ between the members of one population."""

    behavior_weight: float = 0.0  # weight of the behaviour loss: 0 is LFADS, above 0 is BAND
    lr: float = 4e-3  # AdamW step size at the start
    lr_decay: float = 0.95  # factor at a plateau
    lr_patience: int = 6  # epochs without improvement before the rate decays
    lr_stop: float = 1e-5  # training stops when the rate would fall below
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0  # AdamW's decoupled decay; ramps with the L2 penalties
    grad_clip: float = 200.0  # bound of the gradient norm, after loss_scale
    dropout_rate: float = 0.1  # activations of encoder, controller and generator
    behavior_dropout_rate: float = 0.5  # factors that the behaviour decoder sees
    cd_rate: float = 0.3  # coordinated dropout: share of counts hidden from the encoder
    cd_pass_rate: float = 0.0  # share of the seen counts that still pass gradient
    jitter_width: int = 0  # spike jitter: bins by which each spike moves at most, either way
    shift_std: float = 0.0  # temporal shift of each trial and neuron: standard deviation, bins
    shift_max: int = 6  # bins by which a shift moves at most
    sv_rate: float = 0.0  # sample validation: share of the counts that training never sees
    kl_ic_scale: float = 1.0
    kl_co_scale: float = 1.0
    kl_ic_target: float = 0.0  # free nats: KL below this costs nothing
    kl_co_target: float = 0.0
    kl_start_epoch: int = 0
    kl_increase_epoch: int = 500
    l2_ic_enc_scale: float = 0.0
    l2_ci_enc_scale: float = 0.0
    l2_gen_scale: float = 0.0
    l2_con_scale: float = 0.0
    l2_start_epoch: int = 0
    l2_increase_epoch: int = 80

    def __post_init__(self) -> None:
        for name in ("lr", "adam_epsilon", "grad_clip"):
            _require(getattr(self, name) > 0, f"hyper.{name}", "above 0", getattr(self, name))
        for name in ("dropout_rate", "behavior_dropout_rate", "cd_rate", "sv_rate", "adam_beta1", "adam_beta2"):
            _require(0 <= getattr(self, name) < 1, f"hyper.{name}", "in [0, 1)", getattr(self, name))
        _require(0 <= self.cd_pass_rate <= 1, "hyper.cd_pass_rate", "in [0, 1]", self.cd_pass_rate)
        _require(0 < self.lr_decay <= 1, "hyper.lr_decay", "in (0, 1]", self.lr_decay)
        rest = ("behavior_weight", "lr_patience", "lr_stop", "weight_decay", "jitter_width", "shift_std", "shift_max")
        for name in (*rest, *(f.name for f in dataclasses.fields(self) if f.name.startswith(("kl_", "l2_")))):
            _require(getattr(self, name) >= 0, f"hyper.{name}", "at least 0", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a population is trained, equal within it."""

    batch_size: int = 64  # trials a step and member
    drop_last: bool = True  # leave out an epoch's incomplete last batch (each epoch reshuffles)
    max_epochs: int = 700
    stop_patience: int = 200  # epochs without improvement of the monitored score; 0: never stop early
    monitor: str = "valid_recon"  # what plateau, stop, best checkpoint and search look at; valid_band: see README
    smooth: float = 0.3  # weight of the newest epoch in the smoothed monitor
    loss_scale: float = 1.0
    recon_reduce_mean: bool = False  # mean instead of sum over bins and neurons
    kl_co_reduce: str = "sum"  # over time bins: "sum" is the ELBO; "mean" is lfads-torch (scale it by T)
    augmentations: str = "jitter, shift"  # of training, in this order; module:Class for your own
    inference_augmentations: str = ""  # of validation and outputs, the same names
    kl_target: str = "free"  # KL below its target costs nothing; absolute: it costs as KL above does, as in BAND-torch
    valid_samples: int = 1  # posterior draws that the validation loss averages over
    posterior_samples: int = 50  # draws behind the posterior means of the outputs
    checkpoint_s: float = 60.0  # seconds between checkpoints
    start_from: str = ""  # folder of a trained run whose parameters are taken where name and shape agree
    start_sha256: str = ""  # of its model.pt: what is meant, wherever it lies
    trains: str = "all"  # session: read-in and read-out alone, all else stays as it is
    dtype: str = "float32"
    matmul_precision: str = "highest"  # of float32 products on a GPU, as torch names it; high: TF32
    # On their way through the model; 0: all, or as many as memory holds. Fewer take less memory and more time, as each
    # is computed a second time on the way back (activation checkpointing); equal to rounding.
    trials_at_once: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_epochs", "valid_samples", "posterior_samples"):
            _require(getattr(self, name) >= 1, f"train.{name}", "at least 1", getattr(self, name))
        _require(self.stop_patience >= 0, "train.stop_patience", "at least 0", self.stop_patience)
        _require(self.monitor in MONITORS, "train.monitor", f"one of {', '.join(MONITORS)}", self.monitor)
        _require(0 < self.smooth <= 1, "train.smooth", "in (0, 1]", self.smooth)
        _require(self.loss_scale > 0, "train.loss_scale", "above 0", self.loss_scale)
        _require(self.kl_target in ("free", "absolute"), "train.kl_target", "free or absolute", self.kl_target)
        _require(self.kl_co_reduce in ("sum", "mean"), "train.kl_co_reduce", "sum or mean", self.kl_co_reduce)
        _require(self.trains in ("all", "session"), "train.trains", "all or session", self.trains)
        is_given = bool(self.start_from) == bool(self.start_sha256)
        _require(is_given, "train.start_sha256", "given where train.start_from is, and only there", self.start_sha256)
        for key in ("augmentations", "inference_augmentations"):
            for name in option_names(getattr(self, key)):
                _require_option(name, AUGMENTATIONS, f"train.{key}")
        _require(self.trials_at_once >= 0, "train.trials_at_once", "at least 0", self.trials_at_once)
        _require(self.checkpoint_s >= 0, "train.checkpoint_s", "at least 0", self.checkpoint_s)
        _require(self.dtype in ("float32", "float64"), "train.dtype", "float32 or float64", self.dtype)
        precision = self.matmul_precision
        _require(precision in ("highest", "high"), "train.matmul_precision", "highest or high", precision)


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What a finished run leaves beside its scores."""

    level: str = "factors"  # scores: no arrays; factors: rates, factors, behaviour, inputs; full: states too

    def __post_init__(self) -> None:
        _require(self.level in LEVELS, "output.level", f"one of {', '.join(LEVELS)}", self.level)


@dataclass(frozen=True, kw_only=True)
class PbtConfig:
    """Population-based training: members train side by side, the worse are replaced by changed copies of the better.

    All end after `train.max_epochs` at the latest; `train.monitor`, smoothed, is the score they are compared by. Step
    sizes change between generations alone, and none stops early: plateaus and patience of `hyper` and `train` rest.
    """

    members: int = 0  # how many are trained side by side; 0: no search
    every_epochs: int = 25  # length of a generation
    burn_in_epochs: int = 0  # length of the first one; 0: as the others
    selection: str = "tournament"  # the worse of each pair is replaced; truncation: the worst copy the best
    truncation_share: float = 0.25  # truncation: share of the members that is replaced, and that is copied
    stop_generations: int = 4  # look back so many generations' best scores, 0: train to the last epoch
    stop_ratio: float = 5e-4  # and stop where they improved by less than this share
    space: str = ""  # what is searched, a mapping of hyperparameters (band/search.py) kept as JSON
    shards: int = 1  # processes of one job that share the members

    def __post_init__(self) -> None:
        _require(self.members >= 2 or not self.members, "pbt.members", "0 or at least 2", self.members)
        _require(self.every_epochs >= 1, "pbt.every_epochs", "at least 1", self.every_epochs)
        _require(self.burn_in_epochs >= 0, "pbt.burn_in_epochs", "at least 0", self.burn_in_epochs)
        known = f"one of {', '.join(SELECTIONS)}"
        _require(self.selection in SELECTIONS, "pbt.selection", known, self.selection)
        _require(0 < self.truncation_share <= 0.5, "pbt.truncation_share", "in (0, 0.5]", self.truncation_share)
        _require(self.stop_generations != 1, "pbt.stop_generations", "0 or at least 2", self.stop_generations)
        _require(self.stop_generations >= 0, "pbt.stop_generations", "0 or at least 2", self.stop_generations)
        _require(0 <= self.stop_ratio < 1, "pbt.stop_ratio", "in [0, 1)", self.stop_ratio)
        fits = 1 <= self.shards <= max(self.members, 1)
        _require(fits, "pbt.shards", f"in [1, pbt.members = {self.members}]", self.shards)
        fits = bool(self.searched()) or not self.members
        _require(fits, "pbt.space", "given where pbt.members is above 0", self.space)

    def searched(self) -> Space:
        """Return what is searched, {full key: how}, checked against the fields there are.

        Raises:
            ConfigError: no such hyperparameter, or limits that it must not reach.
        """
        space = read_space(self.space, where="pbt.space")
        for key, param in space.items():
            if key not in SEARCHABLE:
                raise ConfigError(f"pbt.space.{key} cannot be searched; {did_you_mean(key, SEARCHABLE)}")
            for value in (*param.limits, *([] if param.start is None else [param.start])):
                try:
                    section_from_dict("hyper", {key.partition(".")[2]: value})
                except ConfigError as error:
                    raise ConfigError(f"pbt.space.{key}: {error}") from None
            is_behavior = key == "hyper.behavior_weight"
            _require(not is_behavior or param.limits[0] > 0, f"pbt.space.{key}.min", "above 0", param.limits[0])
        return space


# What a member may change mid-run: neither what would make its scores incomparable (ramps, counts held out) nor what
# rests in a search (plateaus).
SEARCHABLE = tuple(
    f"hyper.{entry.name}"
    for entry in dataclasses.fields(Hyper)
    if entry.type == "float" and entry.name not in ("lr_decay", "lr_stop", "sv_rate")
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that defines one run."""

    data: DataConfig = field(default_factory=DataConfig)
    arch: Arch = field(default_factory=Arch)
    hyper: Hyper = field(default_factory=Hyper)
    train: TrainConfig = field(default_factory=TrainConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    pbt: PbtConfig = field(default_factory=PbtConfig)
    seed: int = 0  # initial weights, minibatches, masks and noise

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**31, "seed", "in [0, 2**31)", self.seed)
        monitored = self.train.monitor.startswith("valid_behavior")
        fits = not (monitored and self.hyper.behavior_weight == 0)
        _require(fits, "train.monitor", "another score where hyper.behavior_weight is 0", self.train.monitor)
        fits = self.train.monitor != "valid_recon_sv" or self.hyper.sv_rate > 0
        _require(fits, "train.monitor", "another score where hyper.sv_rate is 0", self.train.monitor)
        named = option_names(f"{self.train.augmentations},{self.train.inference_augmentations}")
        for name, key in (("jitter", "jitter_width"), ("shift", "shift_std")):
            value = getattr(self.hyper, key)
            searched = f"hyper.{key}" in self.pbt.space
            where = f"pbt.space.hyper.{key}" if searched else f"hyper.{key}"
            is_idle = name in named or not (value or searched)
            _require(is_idle, where, f"0 where train.augmentations lacks {name}", value)


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "arch": Arch,
    "hyper": Hyper,
    "train": TrainConfig,
    "output": OutputConfig,
    "pbt": PbtConfig,
}


def _coerce(key: str, kind: str, value: Any) -> Any:
    """Return `value` as the type its field is annotated with, or raise ConfigError naming the key."""
    if value is None and "None" in kind:
        return None
    base = kind.split(" |")[0]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if base == "bool" and isinstance(value, bool):
        return value
    if base == "str" and isinstance(value, str):
        return value
    if base == "int" and is_number and float(value).is_integer():
        return int(value)
    if base == "float" and is_number and math.isfinite(value):
        return float(value)
    raise ConfigError(f"{key} must be of type {base}, got {value!r}")


def section_from_dict(name: str, values: dict[str, Any]) -> Any:
    """Return the dataclass of one section ("data", "arch", …) built from plain values.

    Raises:
        ConfigError: an unknown field, a value of the wrong type or out of its range.
    """
    kind = SECTIONS[name]
    types = {f.name: str(f.type) for f in dataclasses.fields(kind)}
    for key in values:
        if key not in types:
            raise ConfigError(f"{name}.{key} is not a field; {name} has {', '.join(sorted(types))}")
    return kind(**{key: _coerce(f"{name}.{key}", types[key], value) for key, value in values.items()})


def run_config_from_dict(values: dict[str, Any]) -> RunConfig:
    """Return the configuration of a run from nested plain values, as `to_dict` gives them.

    Raises:
        ConfigError: an unknown section or field, a value of the wrong type or out of its range.
    """
    for key in values:
        if key not in SECTIONS and key != "seed":
            raise ConfigError(f"{key} is not a section; a run has {', '.join(SECTIONS)} and seed")
    parts = {name: section_from_dict(name, values.get(name) or {}) for name in SECTIONS}
    return RunConfig(**parts, seed=_coerce("seed", "int", values.get("seed", 0)))


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Return a configuration as nested plain values, every field present."""
    return dataclasses.asdict(config)


def trained_config(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return, as plain values, the configuration behind a finished run's parameters: of a search that of its winner.

    Args:
        result: content of a `result.json`.
    """
    config: dict[str, Any] = {key: dict(v) if isinstance(v, Mapping) else v for key, v in result["config"].items()}
    config.pop("pbt", None)
    if found := result["training"].get("pbt"):
        config["hyper"] |= {key.partition(".")[2]: value for key, value in found["hyper"].items()}
        config["seed"] = found["seed"]
    return config
