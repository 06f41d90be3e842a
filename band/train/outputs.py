"""Posterior means and spreads of one member: encoded once, decoded many times, in chunks that fit the memory.

Axes: B trial, R time bin, N' neuron, F factor, K behaviour channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from band.config import RunConfig
from band.model.decoder import Decoded, decode
from band.model.encoder import encode
from band.model.forward import Batch, read_in, read_out
from band.model.noise import Noise
from band.model.params import Params, has_controller, session_room
from band.model.reconstructions import behavior_likelihood_of, reconstruction_of
from band.train.augment import Augmenter
from band.train.noise import NoiseSource, Rates
from band.train.scores import Modelled, Observed, pool_sessions, score_splits
from band.train.trials import SessionTrials, Trials

CHUNK = 256  # trials decoded at once
SPLITS = ("train", "valid", "test")
SPREADS = ("output_params", "factors", "output_behavior_params", "gen_inputs")
BY_LEVEL = {
    "scores": (),
    "factors": (
        "output_params", "factors", "output_behavior_params", "gen_inputs", "co_means", "co_stds", "ic_mean", "ic_std",
        *(f"{name}_spread" for name in SPREADS),
    ),
    "full": ("gen_states", "gen_init", "con_states"),
}  # fmt: skip
INPUTS = ("encod_data", "recon_data", "behavior", "ext_input", "cond", "epoch", "truth")


@dataclass(frozen=True)
class Posterior:
    """Arrays of one member over the trials of all its splits of one session, under lfads-torch's names.

    The first axis is the trial. `output_params` are expected values a bin (counts, for Poisson). NAME_spread is the
    standard deviation over posterior draws.
    """

    arrays: dict[str, np.ndarray]
    index: np.ndarray  # pooled trial of each row


def compute_posterior(
    params: Params,
    trials: Trials,
    place: int,
    *,
    config: RunConfig,
    co_off: bool = False,
    ext_off: bool = False,
    on_progress: Callable[[float], None] = lambda share: None,
) -> list[Posterior]:
    """Return, for each session, posterior means and spreads over `config.train.posterior_samples` draws.

    Args:
        params: the one member.
        trials: the recording.
        place: position of the member's splits in it.
        config: the member.
        co_off: feed zeros instead of inferred inputs to the generator.
        ext_off: feed zeros instead of external inputs as well.
        on_progress: called with the share done.
    """
    pass_ = Pass(params, trials, config, co_off=co_off, ext_off=ext_off)
    indices = [pooled_index(session, place) for session in trials.sessions]
    total, done, found = sum(map(len, indices)), 0, []
    for session, index in enumerate(indices):
        parts = []
        for chunk, purpose in chunks(index, session=session, num_sessions=len(indices)):
            parts.append(pass_.chunk(session, chunk, purpose=purpose))
            done += len(chunk)
            on_progress(done / total)
        found.append(Posterior({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, index))
    return found


def pooled_index(session: SessionTrials, place: int) -> np.ndarray:
    """Return the pooled trials of all splits of a session, in the order of outputs."""
    return np.concatenate([session.split(name, place) for name in SPLITS])


def chunks(index: np.ndarray, *, session: int, num_sessions: int) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """Yield the trials that are decoded at once, and what their draws depend on beside the seed."""
    for start in range(0, len(index), CHUNK):
        yield index[start : start + CHUNK], (start,) if num_sessions == 1 else (session, start)


@dataclass(frozen=True)
class Pass:
    """One member, what is switched off in it and what is added to its inferred inputs."""

    params: Params
    trials: Trials
    config: RunConfig
    co_off: bool = False
    ext_off: bool = False
    push: Tensor | None = None  # (1, R, co_dim), see `decode`

    def chunk(self, session: int, chunk: np.ndarray, *, purpose: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return means and spreads over draws for some trials of one session: encoded once, decoded often."""
        totals: dict[str, Tensor] = {}
        count = self.config.train.posterior_samples
        encoded = self.encode(session, chunk, purpose=purpose)
        for sample in range(count):
            _accumulate(totals, self.draw(encoded, (*purpose, sample)))
        found = {name: value / count for name, value in totals.items()}
        for name in SPREADS:
            if name in found:
                found[f"{name}_spread"] = (found[f"{name}_spread"] - found[name].square()).clamp(min=0).sqrt()
        found |= {"ic_mean": encoded.mean.double(), "ic_std": encoded.std.double()}
        return {name: value[0].float().cpu().numpy() for name, value in found.items()}

    @torch.no_grad()
    def encode(self, session: int, chunk: np.ndarray, *, purpose: tuple[int, ...]) -> Encoded:
        """Return what the encoders make of some trials of one session, augmented as inference asks for."""
        arch = self.config.arch
        batch = Augmenter([self.config]).inference(self._batch(session, chunk), "posterior", *purpose)
        seen = read_in(self.params, batch.encod, arch=arch, widths=self.trials.widths, noise=Noise())
        mean, log_var, controller_input = encode(self.params, seen, arch=arch, noise=Noise())
        std = (log_var.exp() + arch.ic_post_var_min).sqrt()
        ext_input = None if batch.ext_input is None else batch.ext_input * (not self.ext_off)
        return Encoded(session, batch.sizes, mean, std, controller_input, ext_input)

    @torch.no_grad()
    def draw(self, encoded: Encoded, purpose: tuple[int, ...]) -> dict[str, Tensor | None]:
        """Return what one draw of the posterior gives, under lfads-torch's names, (1, B, ·); None: it has no such."""
        source = _noise_source(self.config, self.trials)
        noise = source.posterior(encoded.mean.shape[1], "/".join(map(str, ("posterior", *purpose))))
        assert noise.eps_ic is not None
        decoded = decode(
            self.params, torch.addcmul(encoded.mean, encoded.std, noise.eps_ic), encoded.controller_input,
            encoded.ext_input, arch=self.config.arch, num_bins=self.trials.widths.num_recon_bins, noise=noise,
            co_off=self.co_off, push=self.push,
        )  # fmt: skip
        return self._drawn(decoded, encoded)

    def _batch(self, session: int, chunk: np.ndarray) -> Batch:
        """Return the trials of one session, none of the others."""
        none = np.zeros(0, dtype=np.int64)
        index = [
            torch.from_numpy(chunk if s == session else none)[None].to(self.trials.device)
            for s in range(len(self.trials.sessions))
        ]
        return self.trials.batch(index, [torch.ones_like(trials, dtype=self.trials.dtype) for trials in index])

    def _drawn(self, decoded: Decoded, encoded: Encoded) -> dict[str, Tensor | None]:
        config, arch, sizes, session = self.config, self.config.arch, encoded.sizes, encoded.session
        outputs, behavior = read_out(
            self.params, decoded.factors, sizes, arch=arch, widths=self.trials.widths, noise=Noise()
        )
        kind, likelihood = reconstruction_of(arch), behavior_likelihood_of(arch)
        own = self.params.room(session_room("recon", session, len(sizes)))
        if behavior is not None and config.hyper.behavior_weight > 0:
            behavior = likelihood.means(likelihood.split(behavior), self.params.room("behavior_likelihood"))
        else:
            behavior = None
        has_inputs = has_controller(arch) or encoded.ext_input is not None
        return {
            "output_params": kind.means(kind.split(outputs[session]), own),
            "factors": decoded.factors,
            "output_behavior_params": behavior,
            "gen_inputs": decoded.gen_inputs if has_inputs else None,
            "gen_states": decoded.gen_states,
            "gen_init": decoded.gen_init,
            "con_states": decoded.con_states,
            "co_means": decoded.co_means,
            "co_stds": None if decoded.co_log_vars is None else (0.5 * decoded.co_log_vars).exp(),
        }


@dataclass(frozen=True)
class Encoded:
    """Some trials of one session, from which any number of draws are decoded."""

    session: int
    sizes: list[int]  # trials of each session, 0 but for this one
    mean: Tensor  # (1, B, ic_dim)
    std: Tensor  # (1, B, ic_dim)
    controller_input: Tensor | None
    ext_input: Tensor | None


def _noise_source(config: RunConfig, trials: Trials) -> NoiseSource:
    none = torch.zeros(1)
    return NoiseSource(
        [config.seed], Rates(none, none, none, none), arch=config.arch, widths=trials.widths,
        batch_sizes=(1,), dtype=trials.dtype, device=trials.device,
    )  # fmt: skip


def _accumulate(totals: dict[str, Tensor], drawn: dict[str, Tensor | None]) -> None:
    """Add a draw to the running sums, in double precision, squares included where a spread is wanted."""
    for name, value in drawn.items():
        if value is None:
            continue
        wide = value.double()
        totals[name] = totals[name] + wide if name in totals else wide
        if name in SPREADS:
            key = f"{name}_spread"
            totals[key] = totals[key] + wide.square() if key in totals else wide.square()


def rows_by_split(session: SessionTrials, place: int) -> dict[str, slice]:
    """Return where each split's trials stand in the posterior of a session."""
    ends = np.cumsum([0, *(len(session.split(name, place)) for name in SPLITS)])
    return {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(SPLITS)}


def score_member(
    posterior: list[Posterior],
    ablated: dict[str, list[Posterior]],
    trials: Trials,
    place: int,
    *,
    config: RunConfig,
) -> dict[str, dict[str, float | None]]:
    """Return the scores of one member on every split, see `band.train.scores`.

    Of several sessions each score is the mean over them; each session's own stands under `session/NAME/`.
    """
    each = []
    for s, session in enumerate(trials.sessions):
        observed = {name: observed_split(session, name, place, config) for name in SPLITS}
        each.append(
            score_splits(
                observed,
                modelled_splits(posterior[s], session, place, config),
                ablated={name: modelled_splits(source[s], session, place, config) for name, source in ablated.items()},
            )
        )
    if len(each) == 1:
        return each[0]
    names = [session.recording.session for session in trials.sessions]
    return {split: pool_sessions(dict(zip(names, (e[split] for e in each), strict=True))) for split in SPLITS}


def observed_split(session: SessionTrials, split: str, place: int, config: RunConfig) -> Observed:
    """Return what was recorded of one split of one session."""
    arrays, chosen, groups = session.recording.arrays, session.split(split, place), session.splits[place].groups

    def part(key: str) -> np.ndarray | None:
        return np.asarray(arrays[key])[chosen] if key in arrays else None

    return Observed(
        spikes=np.asarray(arrays["recon_data"])[chosen],
        num_heldin=session.encod.shape[2],
        encod_bins=session.encod.shape[0],
        behavior=part("behavior"),
        cond=part("cond"),
        groups=None if groups is None else groups[chosen],
        is_counts=reconstruction_of(config.arch).is_counts,
        has_classes=not behavior_likelihood_of(config.arch).is_quantity,
    )


def modelled_splits(source: Posterior, session: SessionTrials, place: int, config: RunConfig) -> dict[str, Modelled]:
    """Return what is scored of one session's posterior, by split."""
    rows = rows_by_split(session, place)
    own = source.arrays.get("output_behavior_params")
    behavior = session.recording.arrays.get("behavior")
    if own is not None and behavior is not None:
        own = own[:, : behavior.shape[1]]
    return {
        name: Modelled(
            rates=source.arrays["output_params"][rows[name]],
            factors=source.arrays["factors"][rows[name]],
            behavior=None if own is None else own[rows[name]],
        )
        for name in SPLITS
    }


def write_outputs(
    path: Path, posterior: list[Posterior], trials: Trials, place: int, *, level: str, with_encod: bool = False
) -> None:
    """Write `outputs.h5`: posterior arrays, the input they belong to and the trials' indices, by split.

    Several sessions stand in a group each, under the name they have in the recording.

    Args:
        path: new file.
        posterior: the member, by session.
        trials: the recording.
        place: position of the member's splits in it.
        level: "factors" or "full".
        with_encod: what the encoders see too, where that is what is reconstructed.
    """
    wanted = BY_LEVEL["factors"] + (BY_LEVEL["full"] if level == "full" else ())
    with h5py.File(path, "w") as file:
        if trials.sessions[0].recording.bin_ms is not None:
            file.attrs["bin_ms"] = trials.sessions[0].recording.bin_ms
        for source, session in zip(posterior, trials.sessions, strict=True):
            group = file.create_group(session.recording.session) if session.recording.session else file
            _write_session(group, source, session, place, wanted, with_encod=with_encod)


def _write_session(
    group: h5py.Group,
    source: Posterior,
    session: SessionTrials,
    place: int,
    wanted: tuple[str, ...],
    *,
    with_encod: bool,
) -> None:
    arrays = session.recording.arrays
    repeated = () if with_encod or session.recon is not session.encod else ("encod_data",)
    if session.recording.neurons is not None:
        group["neurons"] = session.recording.neurons
    for name, rows in rows_by_split(session, place).items():
        chosen = source.index[rows]
        if not len(chosen):
            continue
        group[f"{name}_inds"] = np.asarray(arrays["inds"])[chosen]
        for key in wanted:
            if key in source.arrays:
                group[f"{name}_{key}"] = source.arrays[key][rows]
        for key in INPUTS:
            if key in arrays and key not in repeated:
                # Counts and conditions repeat themselves: deflate makes them a tenth.
                group.create_dataset(f"{name}_{key}", data=np.asarray(arrays[key])[chosen], compression="gzip")
