"""Which trials train, choose and test: as shipped, stratified by condition, by blocks with guards, or by group."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from band.config import DataConfig
from band.data.continuity import find_joins
from band.data.hdf5 import SPLIT_NAMES
from band.data.overlap import check_no_shared_trials, windows_on_clock
from band.data.recording import Recording
from band.errors import DataError

MAX_BLOCKS = 5  # blocks a split is cut into, so that each sees all of a drifting recording
GUARDS_A_BLOCK = 10  # a block is at least this many times longer than its guards

Parts = dict[str, np.ndarray]


@dataclass(frozen=True)
class Split:
    """Pooled trials that train, choose and test; sorted, disjoint, none empty.

    Args:
        train: indices into the pooled trials, int64.
        valid: the same, for what chooses.
        test: the same, for what is reported.
        how: one sentence on how they came about.
        groups: (n,) of all pooled trials, those that cross-validation within train keeps together: groups, or
            neighbouring chops of a continuous recording; None where each trial stands for itself.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    how: str
    groups: np.ndarray | None = None


def make_split(recording: Recording, config: DataConfig) -> Split:
    """Return the split that the configuration asks for; it depends on the file, the configuration and nothing else.

    Raises:
        DataError: the recording lacks what the rule needs, a split would be empty or have a trial in common with
            another, or a condition has fewer trials than there are folds.
    """
    if config.split == "shipped" or (config.split == "auto" and config.num_folds == 1):
        parts, how = _as_shipped(recording, config)
    elif config.num_folds == 1:
        shares = {"test": config.test_share, "valid": config.valid_share}
        parts, how = _cut(recording, config, pool=np.arange(recording.num_trials), shares=shares, fixed={})
        how = f"all trials pooled and cut anew, {how}"
    else:
        parts, how = _fold(recording, config)
    parts = {name: np.sort(np.asarray(parts[name], dtype=np.int64)) for name in SPLIT_NAMES}
    for name, indices in parts.items():
        if not len(indices):
            raise DataError(
                f"{recording.path}: the {name} split must not be empty, but {recording.num_trials} trials are too few "
                f"for {how}; change data.{name}_share, data.num_folds or data.guard_trials"
            )
    check_no_shared_trials(
        recording.arrays, parts, path=recording.path, where=recording.where, has_inds=recording.has_inds
    )
    return Split(**parts, how=how, groups=_groups(recording, config))


def rule_of(recording: Recording, config: DataConfig) -> str:
    """Return the rule by which trials are cut: "stratified", "blocked" or "grouped"."""
    if config.split in ("stratified", "blocked", "grouped"):
        return config.split
    if config.group_key:
        return "grouped"
    is_stratified = "cond" in recording.arrays and not windows_on_clock(recording.arrays)
    return "stratified" if is_stratified else "blocked"


def guard_of(recording: Recording, config: DataConfig) -> int:
    """Return how many trials are left out beside a cut between blocks.

    As many as `data.guard_trials` says; where windows overlap, those that share bins, and beside them as many as lie in
    that many whole windows.
    """
    return (config.guard_trials + 1) * (len(windows_on_clock(recording.arrays)) + 1) - 1


def _groups(recording: Recording, config: DataConfig) -> np.ndarray | None:
    rule = rule_of(recording, config)
    if rule == "grouped":
        return np.unique(_labels(recording, config.group_key), return_inverse=True)[1]
    if rule == "stratified":
        return None
    order, _ = _recording_order(recording)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place // (GUARDS_A_BLOCK * max(1, len(windows_on_clock(recording.arrays))))


def _as_shipped(recording: Recording, config: DataConfig) -> tuple[Parts, str]:
    shipped = {name: np.flatnonzero(recording.origin_split == name) for name in SPLIT_NAMES}
    missing = [name for name in ("valid", "test") if not len(shipped[name])]
    if config.split == "shipped":
        if config.num_folds > 1:
            raise DataError(f"{recording.path}: data.split=shipped has no folds; set data.num_folds=1 or another split")
        if missing:
            raise DataError(
                f"{recording.path}: data.split=shipped needs train, valid and test in the file, but {missing[0]} is "
                "missing; data.split=auto cuts it from train"
            )
    kept = [name for name in SPLIT_NAMES if name not in missing]
    kept_how = f"{_list(kept)} as shipped"
    if not missing:
        return shipped, kept_how
    shares: dict[str, float] = {n: getattr(config, f"{n}_share") for n in ("test", "valid") if n in missing}
    fixed = {name: shipped[name] for name in kept if name != "train"}
    parts, how = _cut(recording, config, pool=shipped["train"], shares=shares, fixed=fixed)
    return parts, f"{_list(list(fixed)) + ' as shipped; ' if fixed else ''}{_list(missing)} cut from train, {how}"


def _cut(
    recording: Recording, config: DataConfig, *, pool: np.ndarray, shares: dict[str, float], fixed: Parts
) -> tuple[Parts, str]:
    """Cut `pool` into the splits of `shares` and the rest, which trains; `fixed` splits stay as they are."""
    rule = rule_of(recording, config)
    every = {**shares, "train": 1 - sum(shares.values())}
    if rule == "blocked":
        return _cut_blocks(recording, config, pool=pool, shares=every, fixed=fixed)
    if rule == "grouped":
        groups = _labels(recording, config.group_key)
        cut = _by_group(recording, groups[pool], config, shares=list(every.values()))
        how = f"grouped by {config.group_key}"
    else:
        conditions = _labels(recording, "cond")
        cut = _stratify(conditions[pool], seed=config.split_seed, shares=list(every.values()))
        how = "stratified by condition"
        absent = set(conditions[pool].tolist()) - set(conditions[pool][cut == len(every) - 1].tolist())
        if absent:
            raise DataError(
                f"{recording.path}: condition {sorted(absent)[0]} has too few trials to train on once {how} into "
                f"{_list(list(every))}; give it more, or set data.split=blocked"
            )
    return {**fixed, **{name: pool[cut == part] for part, name in enumerate(every)}}, how


def _fold(recording: Recording, config: DataConfig) -> tuple[Parts, str]:
    """Pool everything; one fold tests, the next one chooses, the rest trains."""
    rule = rule_of(recording, config)
    folds = config.num_folds
    how = f"all trials pooled, fold {config.fold} of {folds}"
    if rule == "blocked":
        order, order_how = _recording_order(recording)
        fold_of = np.empty(len(order), dtype=np.int64)
        fold_of[order] = np.arange(len(order)) * folds // len(order)
        how += f" in contiguous blocks of {order_how}"
    elif rule == "grouped":
        fold_of = _grouped_folds(recording, config)
        how += f", grouped by {config.group_key}"
    else:
        conditions = _labels(recording, "cond")
        names, counts = np.unique(conditions, return_counts=True)
        if counts.min() < folds:
            raise DataError(
                f"{recording.path}: every condition must have at least data.num_folds = {folds} trials, but condition "
                f"{names[counts.argmin()]} has {counts.min()}; use fewer folds, or data.split=blocked"
            )
        fold_of = _stratify(conditions, seed=config.split_seed, shares=[1 / folds] * folds)
        how += ", stratified by condition"
    roles = np.full(len(fold_of), "train", dtype="U5")
    roles[fold_of == config.fold] = "test"
    roles[fold_of == (config.fold + 1) % folds] = "valid"
    if rule == "blocked":
        dropped = _drop_guards(roles, order, guard=guard_of(recording, config), fixed=())
        how += _guards_how(dropped)
    return {name: np.flatnonzero(roles == name) for name in SPLIT_NAMES}, how


def _grouped_folds(recording: Recording, config: DataConfig) -> np.ndarray:
    """Return the fold of each trial, whole groups together; folds that the file ships keep their numbers."""
    labels = _labels(recording, config.group_key)
    if config.group_key == "fold" and set(labels.tolist()) == set(range(config.num_folds)):
        return labels
    return _by_group(recording, labels, config, shares=[1 / config.num_folds] * config.num_folds)


def _stratify(labels: np.ndarray, *, seed: int, shares: list[float]) -> np.ndarray:
    """Return the part of each trial, every label spread over the parts by their shares, in an order drawn by `seed`.

    Each trial goes to the part that is furthest behind its share, label after label, so that the parts' sizes are
    right in sum and within about one trial in every label.
    """
    order = sorted(range(len(labels)), key=lambda i: (labels[i], _draw(seed, str(i))))
    given = np.zeros(len(shares))
    part_of = np.empty(len(labels), dtype=np.int64)
    for place, trial in enumerate(order):
        behind = np.round(np.array(shares) * (place + 1) - given, 9)
        part_of[trial] = int(np.argmax(behind))
        given[part_of[trial]] += 1
    return part_of


def _by_group(recording: Recording, groups: np.ndarray, config: DataConfig, *, shares: list[float]) -> np.ndarray:
    """Return the part of each trial, whole groups together: the largest group first, to the part furthest behind."""
    names, counts = np.unique(groups, return_counts=True)
    if len(names) < len(shares):
        raise DataError(
            f"{recording.path}: data.group_key={config.group_key} must name at least {len(shares)} groups, "
            f"found {len(names)}; use fewer folds, or another key"
        )
    sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
    part_of_group: dict[object, int] = {}
    given = np.zeros(len(shares))
    for name in sorted(sizes, key=lambda n: (-sizes[n], _draw(config.split_seed, str(n)))):
        part = int(np.argmax(np.round(np.array(shares) * len(groups) - given, 9)))
        part_of_group[name] = part
        given[part] += sizes[name]
    return np.array([part_of_group[name] for name in groups.tolist()], dtype=np.int64)


def _cut_blocks(
    recording: Recording, config: DataConfig, *, pool: np.ndarray, shares: dict[str, float], fixed: Parts
) -> tuple[Parts, str]:
    """Cut the pool, in recording order, into a few rounds of train, valid and test blocks with guards between."""
    order, order_how = _recording_order(recording)
    roles = np.full(recording.num_trials, "", dtype="U5")
    for name, indices in fixed.items():
        roles[indices] = name
    in_order = order[np.isin(order, pool)]
    shortest = min(share for name, share in shares.items() if name != "train") * len(pool)
    guard = guard_of(recording, config)
    rounds = int(np.clip(shortest // max(GUARDS_A_BLOCK * guard, 1), 1, MAX_BLOCKS))
    for part in np.array_split(in_order, rounds):
        start = len(part)
        for name in ("test", "valid"):
            if name in shares:
                stop, start = start, start - round(shares[name] * len(part))
                roles[part[start:stop]] = name
        roles[part[:start]] = "train"
    dropped = _drop_guards(roles, order, guard=guard, fixed=tuple(fixed))
    blocks = f"{rounds} contiguous block{'s' if rounds > 1 else ''}"
    return {name: np.flatnonzero(roles == name) for name in SPLIT_NAMES}, (
        f"each in {blocks} of {order_how}{_guards_how(dropped)}"
    )


def _drop_guards(roles: np.ndarray, order: np.ndarray, *, guard: int, fixed: tuple[str, ...]) -> int:
    """Empty the roles of trials beside every cut, of train before valid before test; a fixed split loses none."""
    rank = {"train": 0, "valid": 1, "test": 2}
    before = roles[order].tolist()
    dropped = 0
    for place in range(len(order) - 1):
        pair = before[place : place + 2]
        if pair[0] == pair[1] or "" in pair or all(name in ("train", *fixed) for name in pair):
            continue
        loser = min(pair, key=lambda name: (name in fixed, rank[name]))
        step = -1 if loser == pair[0] else 1
        at = place if step < 0 else place + 1
        for _ in range(guard):
            if not 0 <= at < len(order) or before[at] != loser:
                break
            dropped += roles[order[at]] != ""
            roles[order[at]] = ""
            at += step
    return dropped


def _recording_order(recording: Recording) -> tuple[np.ndarray, str]:
    """Return the pooled trials in the order they were recorded, as far as that can be known, and how it is known."""
    if recording.has_inds:
        return np.argsort(recording.arrays["inds"], kind="stable"), "the order of inds"
    if len(set(recording.origin_split.tolist())) == 1:
        return np.arange(recording.num_trials), "the file's order"
    joins = find_joins(recording.arrays, recording.origin_split)
    if joins.is_continuous:
        return joins.order, "the recording order, told from how chops join"
    return joins.order, "the file's order (that of the recording cannot be told)"


def _labels(recording: Recording, key: str) -> np.ndarray:
    values = recording.arrays.get(key)
    if values is None:
        carried = ", ".join(sorted(recording.arrays))
        setting = "data.split=stratified" if key == "cond" else f"data.group_key={key}"
        raise DataError(
            f"{recording.path}: {setting} needs train_{key} (and in every other split) with one label a trial, but "
            f"the trials have {carried}; add it, or set data.split=blocked"
        )
    if values.ndim != 1:
        raise DataError(f"{recording.path}: {key} must be one label a trial, found shape {values.shape}")
    return values


def _draw(seed: int, name: str) -> str:
    """Return a string whose order is random in `seed`, and the same with every version of every library."""
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def _guards_how(dropped: int) -> str:
    return f", {dropped} guard trial{'s' if dropped != 1 else ''} left out" if dropped else ""


def _list(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
