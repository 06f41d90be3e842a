"""One training step, timed in a process of its own so that peak memory is its own: ours or the reference.

python -m benchmarks.step CASE MEMBERS ours|reference|noise|floor|check THREADS SECONDS [TRIALS] prints one JSON line;
TRIALS is how many go through our model at once.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from band.train.worker import keep_freed_memory


def measure(step: Callable[[], None], *, seconds: float) -> dict[str, float]:
    """Return median and fastest time of a step after some to warm up, and the peak memory of the process."""
    for _ in range(4):
        step()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    found = {"median_s": statistics.median(times), "min_s": min(times), "steps": len(times)}
    return {**found, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """Return the most memory that this process had, without that of the one that started it, as ru_maxrss has."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was told to do."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def ours(case_name: str, members: int, device: str = "cpu", *, trials_at_once: int = 0) -> Callable[[], None]:
    """Return a full step of the package: noise, loss, gradient, clipping, AdamW."""
    import torch
    from torch import Tensor

    from band.model.forward import compute_losses, run_model
    from band.train.captured import Captured
    from band.train.optimiser import AdamWSettings, adamw_step_, clip_gradient_
    from benchmarks.cases import CASES, make_problem

    problem = make_problem(CASES[case_name], range(members), device=device)
    case, params, ones = problem.case, problem.params, problem.ones
    moments = (torch.zeros_like(params.flat), torch.zeros_like(params.flat))
    settings = AdamWSettings(0.9 * ones, 0.999 * ones, 1e-8 * ones, 0 * ones, 200 * ones)
    count = 0

    def work(step: Tensor, corrections: Tensor) -> None:
        noise = problem.noise.training(step)
        latents = run_model(
            params, problem.batch, arch=case.arch, widths=case.widths, noise=noise, trials_at_once=trials_at_once
        )
        terms = compute_losses(
            params, latents, problem.batch, arch=case.arch, scales=problem.scales, kl_ramp=ones, l2_ramp=ones,
            noise=noise,
        )  # fmt: skip
        gradient = params.gradient(terms.loss)
        clip_gradient_(gradient, bound=settings.grad_clip)
        adamw_step_(
            params.flat, gradient, moments, corrections=corrections, lr=4e-3 * ones, decay_ramp=ones, settings=settings
        )  # fmt: skip

    captured: Captured[None] = Captured(device=torch.device(device))

    def step() -> None:
        nonlocal count
        captured(work, torch.tensor(count), settings.corrections(count + 1))
        synchronize(device)
        count += 1

    return step


def reference(case_name: str, members: int, device: str = "cpu") -> Callable[[], None]:
    """Return a full step of the reference for `members` models, one after the other."""
    import torch

    from benchmarks.cases import BEHAVIOR_DIM, CASES, make_problem
    from benchmarks.reference import Reference

    case = CASES[case_name]
    problem = make_problem(case, range(members), device=device)
    models = [
        Reference(case.arch, neurons=case.neurons, bins=case.bins, behavior_dim=BEHAVIOR_DIM).to(device)
        for _ in range(members)
    ]
    optimisers = [torch.optim.AdamW(model.parameters(), lr=4e-3) for model in models]
    assert problem.batch.behavior is not None
    trials = [(problem.batch.recon[0][m].contiguous(), problem.batch.behavior[m].contiguous()) for m in range(members)]

    def step() -> None:
        for model, optimiser, (data, behavior) in zip(models, optimisers, trials, strict=True):
            noise = {
                "cd_keep": torch.bernoulli(torch.full_like(data, 0.7)) / 0.7,
                "eps_ic": torch.randn(case.batch_size, case.arch.ic_dim, device=device),
                "eps_co": torch.randn(case.batch_size, case.bins, case.arch.co_dim, device=device),
            }
            optimiser.zero_grad()
            model.loss(data, behavior, noise, behavior_weight=1.0).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 200.0)
            optimiser.step()
        synchronize(device)

    return step


def noise(case_name: str, members: int) -> Callable[[], None]:
    """Return the drawing of a step's random numbers alone."""
    from benchmarks.cases import CASES, make_problem

    problem = make_problem(CASES[case_name], range(members))
    count = 0

    def step() -> None:
        nonlocal count
        problem.noise.training(count)
        count += 1

    return step


def floor(case_name: str, members: int) -> dict[str, float]:
    """Return the products of a step: operations, and seconds at the rate of this machine at their shapes."""
    from benchmarks.cases import CASES
    from benchmarks.floor import floor_s, flops, products

    found = products(CASES[case_name], members)
    return {"flops": flops(found), "floor_s": floor_s(found)}


def difference(case_name: str) -> float:
    """Return how far the reference's loss is from ours, relatively, on the same parameters, data, masks and draws."""
    import torch

    from band.model.forward import compute_losses, run_model
    from benchmarks.cases import BEHAVIOR_DIM, CASES, make_problem
    from benchmarks.reference import Reference, member_noise

    case = CASES[case_name]
    problem = make_problem(case, [0, 1])
    noise = problem.noise.training(0)
    latents = run_model(problem.params, problem.batch, arch=case.arch, widths=case.widths, noise=noise)
    terms = compute_losses(
        problem.params, latents, problem.batch, arch=case.arch, scales=problem.scales, kl_ramp=problem.ones,
        l2_ramp=problem.ones, noise=noise,
    )  # fmt: skip
    model = Reference(case.arch, neurons=case.neurons, bins=case.bins, behavior_dim=BEHAVIOR_DIM)
    model.load(problem.params, 1)
    assert problem.batch.behavior is not None
    with torch.no_grad():
        found = model.loss(
            problem.batch.recon[0][1], problem.batch.behavior[1], member_noise(noise, 1), behavior_weight=1.0
        )
    return abs(found.item() / terms.loss[1].item() - 1)


def main() -> None:
    """Measure what the command line asks for."""
    case, members, what, threads, seconds = sys.argv[1:6]
    trials_at_once = int(sys.argv[6]) if len(sys.argv) > 6 else 0
    if what != "reference":
        keep_freed_memory()
    import torch

    torch.set_num_threads(int(threads))
    if what == "check":
        print(json.dumps({"difference": difference(case)}))
        return
    if what == "floor":
        print(json.dumps(floor(case, int(members))))
        return
    if what == "ours":
        step = ours(case, int(members), trials_at_once=trials_at_once)
    else:
        step = {"reference": reference, "noise": noise}[what](case, int(members))
    print(json.dumps(measure(step, seconds=float(seconds))))


if __name__ == "__main__":
    main()
