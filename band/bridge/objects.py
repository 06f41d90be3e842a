"""The keys of their configurations that name classes, such as priors and augmentations: what of ours each one is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from band.bridge.fates import READ, Fate, dropped, kept, unsupported
from band.yaml_file import Node, plain

RECONSTRUCTIONS = {
    "Poisson": "poisson_stirling", "Gaussian": "gaussian", "Gamma": "gamma", "ZeroInflatedGamma": "zero_inflated_gamma",
    "MSE": "mse",
}  # fmt: skip
BEHAVIOR = {"MSE": "mse", "Gaussian": "gaussian", "Poisson": "poisson"}
PRIORS = {
    "MultivariateNormal": "normal",
    "AutoregressiveMultivariateNormal": "autoregressive",
    "MultivariateStudentT": "student_t_lfads_torch",
}
AUGMENTATIONS: dict[str, dict[str, tuple[str, float]]] = {  # their arguments: ours, and their default
    "SpikeJitter": {"width": ("hyper.jitter_width", 2)},
    "TemporalShift": {"std": ("hyper.shift_std", 3.0), "max_shift": ("hyper.shift_max", 6)},
    "SampleValidation": {"sv_rate": ("hyper.sv_rate", 0.0)},
}
GAMMA = {"gamma_loc": "gamma_loc", "scale_init": "gamma_scale_init", "scale_prior": "gamma_scale_prior",
         "scale_penalty": "gamma_scale_penalty"}  # fmt: skip
LINEAR = ("Linear", "FanInLinear", "MultisessionReadout", "PCRMultisessionReadout")
STIRLING = "its constant by Stirling's approximation, so that losses are as printed there"


def parts_of(node: Node) -> list[dict[str, Any]]:
    """Return the objects that a node describes: one, a list of them, or the modules of a list of modules."""
    value = plain(node)
    if isinstance(value, dict) and isinstance(value.get("modules"), list):
        value = value["modules"]
    if isinstance(value, dict) and isinstance(value.get("recon"), dict):
        value = value["recon"]
    parts = value or [None] if isinstance(value, list) else [value]
    return [part if isinstance(part, dict) else {} for part in parts]


def class_of(part: Mapping[str, Any]) -> str:
    """Return the last name of an object's `_target_`."""
    return str(part.get("_target_", "")).rpartition(".")[2]


def _strange(key: str, node: Node, known: Any) -> list[Fate]:
    found = ", ".join(sorted({class_of(part) or "something without _target_" for part in parts_of(node)}))
    why = f"{found} is none of {', '.join(known)}"
    return [unsupported(key, plain(node), why, str(node.source), is_model=True)]


def readin(key: str, node: Node, model: Mapping[str, Any]) -> list[Fate]:
    """Return what becomes of the read-ins."""
    parts, where = parts_of(node), str(node.source)
    names = {class_of(part) for part in parts}
    if names == {"Identity"} and len(parts) == 1:
        return [dropped(key, plain(node), "of one session the encoders see the neurons as they are", where)]
    if len(names) != 1 or not names <= {"MultisessionReadin", "Linear", "FanInLinear"}:
        return _strange(key, node, ("Identity", "MultisessionReadin", "Linear", "FanInLinear"))
    part = parts[0]
    is_multi = names == {"MultisessionReadin"}
    is_trained = bool(part.get("requires_grad", not is_multi))
    kind = ("pcr_" if is_multi and part.get("pcr_init", True) else "") + ("trained" if is_trained else "fixed")
    why = "the regression across sessions is computed here" if kind.startswith("pcr") else ""
    return [
        kept(key, plain(node), "arch.readin", kind, why, where),
        kept(
            f"{key} (channels)", model.get("encod_data_dim"), "arch.readin_dim", model.get("encod_data_dim"), "", where
        ),
    ]


def readout(key: str, node: Node, model: Mapping[str, Any]) -> list[Fate]:
    """Return what becomes of the read-outs."""
    if not all(class_of(part) in LINEAR for part in parts_of(node)):
        return _strange(key, node, LINEAR)
    return [Fate(key=key, value=plain(node), became=READ, why="one linear map a session", where=str(node.source))]


def behavior_readout(key: str, node: Node, model: Mapping[str, Any]) -> list[Fate]:
    """Return what becomes of the behaviour decoder."""
    parts, where = parts_of(node), str(node.source)
    if len(parts) != 1 or class_of(parts[0]) != "FanInSeq2Seq":
        return _strange(key, node, ("one FanInSeq2Seq",))
    rate = parts[0].get("dropout_rate", 0.0)
    return [
        kept(key, plain(node), "arch.behavior_decoder", "trial", "factors of all bins tell every bin", where),
        kept(f"{key}.dropout_rate", rate, "hyper.behavior_dropout_rate", rate, "", where),
    ]


def reconstruction(key: str, node: Node, model: Mapping[str, Any]) -> list[Fate]:
    """Return what becomes of the likelihood of the recorded data."""
    parts, where = parts_of(node), str(node.source)
    names = {class_of(part) for part in parts}
    if len(names) != 1 or not names <= set(RECONSTRUCTIONS):
        return _strange(key, node, RECONSTRUCTIONS)
    (name,) = names
    why = STIRLING if name == "Poisson" else ""
    fates = [kept(key, plain(node), "arch.reconstruction", RECONSTRUCTIONS[name], why, where)]
    if name == "ZeroInflatedGamma":
        given = [(theirs, ours) for theirs, ours in GAMMA.items() if theirs in parts[0]]
        fates += [kept(f"{key}.{t}", parts[0][t], f"arch.{o}", parts[0][t], "", where) for t, o in given]
    return fates


def behavior_reconstruction(key: str, node: Node, model: Mapping[str, Any]) -> list[Fate]:
    """Return what becomes of the loss of behaviour."""
    names = {class_of(part) for part in parts_of(node)}
    if len(names) != 1 or not names <= set(BEHAVIOR):
        return _strange(key, node, BEHAVIOR)
    return [kept(key, plain(node), "arch.behavior_likelihood", BEHAVIOR[names.pop()], "", str(node.source))]


def prior(key: str, node: Node, model: Mapping[str, Any]) -> list[Fate]:
    """Return what becomes of a prior, key `model.ic_prior` or `model.co_prior`, and of its divergence."""
    room, where = key.rpartition(".")[2].partition("_")[0], str(node.source)
    part = parts_of(node)[0]
    name = PRIORS.get(class_of(part))
    if name is None or (name == "autoregressive" and room == "ic"):
        return _strange(key, node, PRIORS)
    fates = [kept(key, plain(node), f"arch.{room}_prior", name, "", where)]

    def add(theirs: str, ours: str, change: Callable[[float], float] = float) -> None:
        if isinstance(part.get(theirs), (int, float)):
            fates.append(kept(f"{key}.{theirs}", part[theirs], ours, change(part[theirs]), "", where))

    add("variance", f"arch.{room}_prior_var")
    add("scale", f"arch.{room}_prior_var", lambda scale: scale**2)
    add("df", "arch.prior_df")
    add("tau", "arch.co_prior_tau")
    add("nvar", "arch.co_prior_nvar")
    if part.get("mean"):
        fates.append(unsupported(f"{key}.mean", part["mean"], "the mean is trained and starts at 0", where))
    if room == "co":
        reduce = "sum" if name == "autoregressive" else "mean"
        why = "over bins; there it depends on the prior, a factor of exactly their number"
        fates.append(kept(f"{key} (its KL)", reduce, "train.kl_co_reduce", reduce, why, where))
    return fates


def augmentations(key: str, node: Node, model: Mapping[str, Any]) -> list[Fate]:
    """Return what becomes of the augmentations of training."""
    stack, where = plain(node), str(node.source)
    stack = stack if isinstance(stack, dict) else {}
    transforms, *orders = (_list(stack.get(name)) for name in ("transforms", "batch_order", "loss_order"))
    used = list(dict.fromkeys(str(place) for order in orders for place in order))
    fates = []
    for place in used:
        found = transforms[int(place)] if place.isdecimal() and int(place) < len(transforms) else None
        part = found if isinstance(found, dict) else {}
        own = f"{key}.transforms.{place}"
        if class_of(part) in ("CoordinatedDropout", "CoordinatedDropoutTF2"):
            for rate in ("cd_rate", "cd_pass_rate"):
                fates.append(kept(f"{own}.{rate}", part.get(rate), f"hyper.{rate}", part.get(rate, 0.0), "", where))
        elif class_of(part) == "SelectiveBackpropThruTime":
            fates.append(kept(own, part, "data.missing", "mask", "NaN stands for what was not observed", where))
        elif class_of(part) in AUGMENTATIONS:
            for theirs, (ours, default) in AUGMENTATIONS[class_of(part)].items():
                value = part.get(theirs, default)
                fates.append(kept(f"{own}.{theirs}", value, ours, value, "", where))
        else:
            fates.append(unsupported(own, part, f"augmentation {class_of(part) or '(not in the list)'}", where))
    if not any(fate.ours == "hyper.cd_rate" for fate in fates):
        fates.append(kept(key, plain(node), "hyper.cd_rate", 0.0, "no coordinated dropout among them", where))
    return fates


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


OBJECTS: dict[str, Callable[[str, Node, Mapping[str, Any]], list[Fate]]] = {
    "model.readin": readin,
    "model.readout": readout,
    "model.behavior_readout": behavior_readout,
    "model.reconstruction": reconstruction,
    "model.behavior_reconstruction": behavior_reconstruction,
    "model.ic_prior": prior,
    "model.co_prior": prior,
    "model.train_aug_stack": augmentations,
}
