"""How long until a model is good: seconds to a validation loss that both implementations reach.

`python -m benchmarks.to_loss THREADS [DEVICE]` trains the reference, one model of the package, and a population on a
simulated Lorenz recording, the same initial weights, step size and batch size, and looks at the same validation loss
after every epoch.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from band.cli.data import main as band_data
from band.config import Hyper, RunConfig, TrainConfig
from band.model.forward import Scales
from band.model.params import Params
from band.train.evaluate import evaluate, scores_by_member
from band.train.loop import Loop
from band.train.noise import NoiseSource, Rates
from band.train.start import start_population
from band.train.trials import Trials
from band.train.worker import keep_freed_memory
from benchmarks.cases import CASES
from benchmarks.reference import Reference
from benchmarks.step import synchronize

DEVICE = torch.device(sys.argv[2] if len(sys.argv) > 2 else "cpu")
EPOCHS, MEMBERS = 30, 16


def configuration(seed: int) -> RunConfig:
    """Return a small LFADS without ramps, whose step size stays as it is."""
    hyper = Hyper(kl_increase_epoch=0, l2_increase_epoch=0, lr_patience=10_000)
    train = TrainConfig(batch_size=64, max_epochs=EPOCHS, stop_patience=0)
    return RunConfig(arch=CASES["small"].arch, hyper=hyper, train=train, seed=seed)


def judge(params: Params, trials: Trials, configs: list[RunConfig], epoch: int) -> list[float]:
    """Return the validation reconstruction loss of each member, nats a trial."""
    ones = torch.ones(len(configs), device=DEVICE)
    zeros = 0 * ones
    rates = Rates(*(zeros.double().cpu() for _ in range(4)))
    widths, arch = trials.widths, configs[0].arch
    noise = NoiseSource(
        [config.seed for config in configs], rates, arch=arch, widths=widths, batch_sizes=trials.batch_sizes,
        dtype=torch.float32, device=DEVICE,
    )  # fmt: skip
    weights = dict.fromkeys(("ic_enc", "ci_enc", "gen", "con"), zeros)
    scales = Scales(behavior_weight=zeros, kl_ic_scale=ones, kl_co_scale=ones, kl_ic_target=zeros, kl_co_target=zeros,
                    l2=weights)  # fmt: skip
    batch = trials.batch(*trials.whole("valid", range(len(configs))))
    draws = [noise.posterior(batch.weight.shape[1], "valid", 4 * epoch + sample) for sample in range(4)]
    ramps = torch.stack((ones, ones))
    found = evaluate(params, batch, draws, arch=arch, widths=widths, scales=scales, ramps=ramps)
    return [scores["valid_recon"] for scores in scores_by_member(found)]


def curve(epoch: Callable[[], Params], trials: Trials, configs: list[RunConfig]) -> list[tuple[float, float]]:
    """Return (seconds of training so far, loss of the worst member) after every epoch."""
    found, seconds = [], 0.0
    for number in range(EPOCHS):
        synchronize(DEVICE.type)
        before = time.perf_counter()
        params = epoch()
        synchronize(DEVICE.type)
        seconds += time.perf_counter() - before
        found.append((seconds, max(judge(params, trials, configs, number))))
    return found


def ours(path: Path, members: int) -> list[tuple[float, float]]:
    """Train a population."""
    configs = [configuration(seed) for seed in range(members)]
    trials = Trials.load(path, configs, device=DEVICE)
    places = {str(seed): seed for seed in range(members)}
    runs = [(str(seed), config) for seed, config in enumerate(configs)]
    loop = Loop(start_population(runs, trials, places, device=DEVICE), trials, places=places)

    def epoch() -> Params:
        done: list[int] = []
        while not done:
            done = loop.step()
        for member in loop.population.members:  # as `Loop.end_epochs`, but for its own validation
            member.epoch, member.batch = member.epoch + 1, 0
        loop._epoch_batches = [loop._shuffled(p) for p in range(members)]
        return loop.population.params

    return curve(epoch, trials, configs)


def reference(path: Path) -> list[tuple[float, float]]:
    """Train one model of the reference from the same weights on the same minibatches."""
    config = configuration(0)
    trials = Trials.load(path, [config], device=DEVICE)
    start = start_population([("0", config)], trials, {"0": 0}, device=DEVICE).params
    widths = trials.widths
    model = Reference(config.arch, neurons=widths.num_neurons[0], bins=widths.num_bins, behavior_dim=1).to(DEVICE)
    _take(model, start)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.hyper.lr, weight_decay=0.0)
    count = 0

    def epoch() -> Params:
        nonlocal count
        (indices, _), *_ = trials.epoch(0, config, epoch=count)
        count += 1
        for index in indices.to(DEVICE):
            batch = trials.batch([index[None]], [torch.ones(1, len(index), device=DEVICE)])
            _step(model, optimiser, batch.recon[0][0].contiguous())
        return _given(model, start)

    return curve(epoch, trials, [config])


def _step(model: Reference, optimiser: torch.optim.Optimizer, data: Tensor) -> None:
    arch = model.arch
    noise = {
        "cd_keep": torch.bernoulli(torch.full_like(data, 0.7)) / 0.7,
        "eps_ic": torch.randn(data.shape[0], arch.ic_dim, device=DEVICE),
        "eps_co": torch.randn(data.shape[0], data.shape[1], arch.co_dim, device=DEVICE),
    }
    optimiser.zero_grad()
    model.loss(data, data.new_zeros(*data.shape[:2], 1), noise, behavior_weight=0.0).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 200.0)
    optimiser.step()


def _take(model: Reference, params: Params) -> None:
    """Give the reference the weights of a member; its behaviour decoder, which costs it nothing here, is its own."""
    behavior = {f"behavior.{name}": value.detach() for name, value in model.behavior.named_parameters()}
    views = {name: view.detach() for name, view in params.items()}
    shapes = {name: tuple(view.shape[1:]) for name, view in views.items()}
    shapes |= {name: tuple(value.shape) for name, value in behavior.items()}
    rows = [views[name][0].flatten() for name in views] + [value.flatten() for value in behavior.values()]
    model.load(Params(torch.cat(rows)[None], shapes), 0)


def _given(model: Reference, like: Params) -> Params:
    """Return the weights of the reference as a member's."""
    state = model.state_dict()
    names = {"con.h0": "con_h0", "ic_prior.mean": "ic_prior", "co_prior.mean": "co_prior"}
    rows = []
    for name, shape in like.shapes.items():
        room, _, kind = name.rpartition(".")
        if room in ("ic_enc", "ci_enc") and kind != "h0":
            value = torch.stack([state[f"{room}.cells.{direction}.{kind}"] for direction in (0, 1)])
        else:
            value = state[names.get(name, name)]
        rows.append(value.reshape(shape).flatten())
    return Params(torch.cat(rows)[None], like.shapes)


def recording(folder: Path) -> Path:
    """Write what is trained on, and return its path."""
    path = folder / "lorenz.h5"
    sizes = ["--neurons", "20", "--bins", "40", "--trials", "8", "2", "1", "--conditions", "40"]
    assert band_data(["simulate", "lorenz", str(path), *sizes, "--json"]) == 0
    return path


def main() -> None:
    """Print a JSON line: the loss, and for each way the seconds until it and the epochs."""
    keep_freed_memory()
    torch.set_num_threads(int(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        path = recording(Path(folder))
        curves = {"reference": reference(path), "one": ours(path, 1), "population": ours(path, MEMBERS)}
    target = max(min(loss for _, loss in found) for found in curves.values())
    seconds = {name: next(s for s, loss in found if loss <= target) for name, found in curves.items()}
    epochs = {name: [loss <= target for _, loss in found].index(True) + 1 for name, found in curves.items()}
    print(json.dumps({"loss": target, "seconds": seconds, "epochs": epochs, "members": MEMBERS, "curves": curves}))


if __name__ == "__main__":
    main()
