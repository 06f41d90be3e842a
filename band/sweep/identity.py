"""The id of a run: a readable prefix and a hash of the science in it, the same wherever and whenever it is generated.

Left out of the hash are the fields that change nothing that is learnt (paths, how much is kept, how often is saved),
the fields that have no effect in this run, and the fields at the value of `LEGACY`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

HASH_DIGITS = 10
_NEVER = object()  # equal to no value
UNHASHED = {
    "data.path": "only what a recording holds counts, not where it lies",
    "output.level": "it decides what is kept of a run, not what the run learns",
    "train.start_from": "only what the run to start from holds counts, not where it lies",
    "train.checkpoint_s": "it decides how often a run is saved, not what it learns",
    "train.trials_at_once": "it decides how much memory a step takes, not what it computes",
    "pbt.shards": "it decides how many processes train a population, not what it learns",
}

# Frozen: a field added later enters with the value that does what was done before it existed, and no value here may
# ever change, whatever the default in config.py becomes. So an old sweep keeps its ids, and its results.
LEGACY: dict[str, Any] = {
    "data.bin_ms": None,
    "data.split": "auto",
    "data.fold": 0,
    "data.num_folds": 1,
    "data.valid_share": 0.2,
    "data.test_share": 0.2,
    "data.split_seed": 0,
    "data.guard_trials": 1,
    "data.group_key": "",
    "data.missing": "auto",
    "data.heldout_share": 0.0,
    "data.heldout_seed": 0,
    "data.forward_bins": 0,
    "arch.ic_enc_seq_len": 0,
    "arch.ic_enc_dim": 64,
    "arch.ci_enc_dim": 64,
    "arch.ci_lag": 1,
    "arch.causal_con": True,
    "arch.con_dim": 64,
    "arch.co_dim": 4,
    "arch.ic_dim": 64,
    "arch.gen_dim": 100,
    "arch.fac_dim": 40,
    "arch.cell_clip": 5.0,
    "arch.ic_post_var_min": 1e-4,
    "arch.ic_prior": "normal",
    "arch.ic_prior_var": 0.1,
    "arch.co_prior": "normal",
    "arch.co_prior_var": 0.1,
    "arch.co_prior_tau": 10.0,
    "arch.co_prior_nvar": 0.1,
    "arch.prior_df": 5.0,
    "arch.reconstruction": "poisson",
    "arch.gamma_loc": 0.0,
    "arch.gamma_scale_init": 20.0,
    "arch.gamma_scale_prior": 20.0,
    "arch.gamma_scale_penalty": 0.0,
    "arch.behavior_decoder": "trial",
    "arch.behavior_lags": 5,
    "arch.behavior_likelihood": "mse",
    "arch.behavior_classes": 2,
    "arch.readin": "trained",
    "arch.readin_dim": 0,
    "hyper.behavior_weight": 0.0,
    "hyper.lr": 4e-3,
    "hyper.lr_decay": 0.95,
    "hyper.lr_patience": 6,
    "hyper.lr_stop": 1e-5,
    "hyper.adam_beta1": 0.9,
    "hyper.adam_beta2": 0.999,
    "hyper.adam_epsilon": 1e-8,
    "hyper.weight_decay": 0.0,
    "hyper.grad_clip": 200.0,
    "hyper.dropout_rate": 0.1,
    "hyper.behavior_dropout_rate": 0.5,
    "hyper.cd_rate": 0.3,
    "hyper.cd_pass_rate": 0.0,
    "hyper.jitter_width": 0,
    "hyper.shift_std": 0.0,
    "hyper.shift_max": 6,
    "hyper.sv_rate": 0.0,
    "hyper.kl_ic_scale": 1.0,
    "hyper.kl_co_scale": 1.0,
    "hyper.kl_ic_target": 0.0,
    "hyper.kl_co_target": 0.0,
    "hyper.kl_start_epoch": 0,
    "hyper.kl_increase_epoch": 500,
    "hyper.l2_ic_enc_scale": 0.0,
    "hyper.l2_ci_enc_scale": 0.0,
    "hyper.l2_gen_scale": 0.0,
    "hyper.l2_con_scale": 0.0,
    "hyper.l2_start_epoch": 0,
    "hyper.l2_increase_epoch": 80,
    "train.batch_size": 64,
    "train.drop_last": True,
    "train.max_epochs": 700,
    "train.stop_patience": 200,
    "train.monitor": "valid_recon",
    "train.smooth": 0.3,
    "train.loss_scale": 1.0,
    "train.recon_reduce_mean": False,
    "train.kl_co_reduce": "sum",
    "train.augmentations": "jitter, shift",
    "train.inference_augmentations": "",
    "train.kl_target": "free",
    "train.valid_samples": 1,
    "train.posterior_samples": 50,
    "train.dtype": "float32",
    "train.matmul_precision": "highest",
    "train.start_sha256": "",
    "train.trains": "all",
    "pbt.members": 0,
    "pbt.every_epochs": 25,
    "pbt.burn_in_epochs": 0,
    "pbt.selection": "tournament",
    "pbt.truncation_share": 0.25,
    "pbt.stop_generations": 4,
    "pbt.stop_ratio": 5e-4,
    "pbt.space": "",
    "seed": 0,
}


@dataclass(frozen=True)
class Condition:
    """Where some fields have no effect: what has to hold for that, in words, and the test of it."""

    keys: tuple[str, ...]
    where: str
    holds: Callable[[Mapping[str, Any]], bool]


def _is(*splits: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda config: config["data"]["split"] in splits


def _has_folds(config: Mapping[str, Any]) -> bool:
    return bool(config["data"]["num_folds"] > 1)


def _names(key: str, *built_in: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return the test whether an option of `arch` is one of these; one of a user's own may read any field."""
    return lambda config: config["arch"][key] in built_in


def _has_no_classes(config: Mapping[str, Any]) -> bool:
    return _names("reconstruction", *_PLAIN, _ZIG)(config) and _names("behavior_likelihood", *_PLAIN)(config)


def _has_no_student_t(config: Mapping[str, Any]) -> bool:
    has_co = config["arch"]["co_dim"] > 0
    return _names("ic_prior", "normal")(config) and (not has_co or _names("co_prior", "normal", _AR)(config))


def _has_no_zero_inflated_gamma(config: Mapping[str, Any]) -> bool:
    return _names("reconstruction", *_PLAIN)(config) and _names("behavior_likelihood", *_PLAIN, "categorical")(config)


def _has_no_l2(config: Mapping[str, Any]) -> bool:
    names = ("l2_ic_enc_scale", "l2_ci_enc_scale", "l2_gen_scale", "l2_con_scale", "weight_decay")
    return not any(config["hyper"][name] for name in names)


def _searches(config: Mapping[str, Any]) -> int:
    return int(config.get("pbt", {}).get("members", 0))  # runs of before have no such section


_PBT = tuple(key for key in (*LEGACY, *UNHASHED) if key.startswith("pbt.") and key != "pbt.members")
_AR, _ZIG = "autoregressive", "zero_inflated_gamma"
_PLAIN = ("poisson", "poisson_stirling", "gaussian", "gamma", "mse")
_NO_LAG = ("trial", "bin")
_CONTROLLER = (
    "arch.ci_lag",
    "arch.causal_con",
    "arch.con_dim",
    "arch.ci_enc_dim",
    "arch.co_prior",
    "arch.co_prior_var",
    "arch.co_prior_tau",
    "arch.co_prior_nvar",
    "hyper.kl_co_scale",
    "hyper.kl_co_target",
    "train.kl_co_reduce",
)
WITHOUT_EFFECT = (
    # The likelihood of behaviour stays: it says whether scores are of classes or of quantities, for LFADS too.
    Condition(
        ("hyper.behavior_dropout_rate", "arch.behavior_decoder", "arch.behavior_lags"),
        "hyper.behavior_weight is 0",
        lambda c: not c["hyper"]["behavior_weight"],
    ),
    Condition(("arch.behavior_lags",), "arch.behavior_decoder is not causal_lag", _names("behavior_decoder", *_NO_LAG)),
    Condition(
        ("arch.behavior_classes",),
        "arch.behavior_likelihood is not categorical",
        _has_no_classes,
    ),
    Condition(
        ("arch.co_prior_tau", "arch.co_prior_nvar"),
        "arch.co_prior is not autoregressive",
        _names("co_prior", "normal", "student_t", "student_t_lfads_torch"),
    ),
    Condition(("arch.co_prior_var",), "arch.co_prior is autoregressive", _names("co_prior", _AR)),
    Condition(("arch.prior_df",), "no prior is student_t", _has_no_student_t),
    Condition(
        ("arch.gamma_loc", "arch.gamma_scale_init", "arch.gamma_scale_prior", "arch.gamma_scale_penalty"),
        "nothing is zero_inflated_gamma",
        _has_no_zero_inflated_gamma,
    ),
    Condition(
        ("arch.gamma_scale_prior",),
        "arch.gamma_scale_penalty is 0",
        lambda c: not c["arch"]["gamma_scale_penalty"] and _names("reconstruction", _ZIG)(c),
    ),
    Condition(("arch.readin",), "arch.readin_dim is 0", lambda c: not c["arch"]["readin_dim"]),
    Condition(("hyper.shift_max",), "hyper.shift_std is 0", lambda c: not c["hyper"]["shift_std"]),
    Condition(
        ("train.kl_target",),
        "hyper.kl_ic_target and hyper.kl_co_target are 0",
        lambda c: not (c["hyper"]["kl_ic_target"] or c["hyper"]["kl_co_target"]),
    ),
    Condition(("hyper.cd_pass_rate",), "hyper.cd_rate is 0", lambda c: not c["hyper"]["cd_rate"]),
    Condition(_CONTROLLER, "arch.co_dim is 0", lambda c: not c["arch"]["co_dim"]),
    Condition(("hyper.l2_start_epoch", "hyper.l2_increase_epoch"), "every L2 scale and weight_decay are 0", _has_no_l2),
    Condition(("hyper.lr_patience",), "hyper.lr_decay is 1", lambda c: c["hyper"]["lr_decay"] == 1),
    Condition(_PBT, "pbt.members is 0", lambda c: not _searches(c)),
    Condition(
        ("hyper.lr_decay", "hyper.lr_patience", "hyper.lr_stop", "train.stop_patience"),
        "pbt.members is above 0: in a search, rates change between generations alone",
        lambda c: _searches(c) > 0,
    ),
    Condition(
        ("pbt.truncation_share",),
        "pbt.selection is tournament",
        lambda c: not _searches(c) or c["pbt"]["selection"] == "tournament",
    ),
    Condition(
        ("pbt.stop_ratio",),
        "pbt.stop_generations is 0",
        lambda c: not _searches(c) or not c["pbt"]["stop_generations"],
    ),
    Condition(("data.valid_share", "data.test_share"), "data.num_folds cuts the trials", _has_folds),
    Condition(("data.valid_share", "data.test_share", "data.split_seed"), "data.split is shipped", _is("shipped")),
    Condition(("data.split_seed",), "data.split is blocked", _is("blocked")),
    Condition(("data.heldout_seed",), "data.heldout_share is 0", lambda c: not c["data"]["heldout_share"]),
    Condition(("data.group_key",), "data.split is not grouped", _is("shipped", "stratified", "blocked")),
    Condition(("data.guard_trials",), "data.split is not blocked", _is("shipped", "stratified", "grouped")),
)


def without_effect(config: Mapping[str, Any]) -> dict[str, str]:
    """Return {full key: why} of the fields that change nothing in a run of this configuration."""
    searched = searched_keys(config)
    hyper = {**config["hyper"], **{key.partition(".")[2]: 1.0 for key in searched}}  # none of them stays at 0
    found = [condition for condition in WITHOUT_EFFECT if condition.holds({**config, "hyper": hyper})]
    idle = {key: condition.where for condition in found for key in condition.keys}
    return {**idle, **dict.fromkeys(searched, "pbt.space says where members start")}


def searched_keys(config: Mapping[str, Any]) -> list[str]:
    """Return the hyperparameters that a run draws itself; the weight of behaviour, which makes it BAND, is not one."""
    space = config["pbt"]["space"] if _searches(config) else ""
    return [key for key in json.loads(space or "{}") if key != "hyper.behavior_weight"]


def science(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return {full key: value} of the fields that an id depends on.

    Args:
        config: a full run configuration as nested plain values.
    """
    idle = without_effect(config)
    kept = {}
    for section, part in config.items():
        for name, value in part.items() if isinstance(part, Mapping) else ((section, part),):
            key = name if name == section else f"{section}.{name}"
            if LEGACY.get(key, _NEVER) != value and key not in UNHASHED and key not in idle:
                kept[key] = value
    return kept


def run_id(config: Mapping[str, Any], *, dataset_digest: str) -> str:
    """Return the id of a run, as `band0.1-s2-f1-3fa9c04b1d`: weight, seed, fold where there are folds, and hash.

    Args:
        config: a full run configuration as nested plain values.
        dataset_digest: identity of the recording it is trained on.
    """
    payload = json.dumps(
        {"config": science(config), "dataset": dataset_digest},
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return f"{_prefix(config)}-{hashlib.sha256(payload.encode()).hexdigest()[:HASH_DIGITS]}"


def pair_id(config: Mapping[str, Any], *, dataset_digest: str) -> str:
    """Return the id of the LFADS run that differs from this one in behaviour weight alone; of LFADS itself its own."""
    twin = {**config, "hyper": {**config["hyper"], "behavior_weight": 0.0}}
    return run_id(twin, dataset_digest=dataset_digest)


def _prefix(config: Mapping[str, Any]) -> str:
    weight, data = config["hyper"]["behavior_weight"], config["data"]
    model = f"band{weight:g}".replace("+", "") if weight else "lfads"
    fold = f"-f{data['fold']}" if data["num_folds"] > 1 else ""
    return f"{model}-s{config['seed']}{fold}"
