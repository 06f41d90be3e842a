"""Population-based training of a run, by the real trainer: descent, copies, divergence, resume, objective, winner."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import random
import shutil

import numpy as np
import pytest
import torch
from test_worker import assert_same, finished, train_with_kills
from tiny import SPACE, Worker, config, make_loop, searching, trained, write_recording, write_task

import band
from band.after.rescore import score
from band.config import run_config_from_dict
from band.run_dir import verify
from band.search import explore
from band.train.checkpoint import newest_checkpoint
from band.train.generations import Search, number_of
from band.train.loop import Loop
from band.train.pbt import next_population
from band.train.run_model import open_model, own_trials
from band.train.shards import Ranks
from band.train.trials import Trials

TRAIN = {"max_epochs": 12, "checkpoint_s": 1e6}


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("tiny") / "tiny.h5")


def rows(folder) -> list[dict[str, str]]:
    with (folder / "lineage.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def metrics(folder) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def band_run(recording, tmp_path_factory):
    """A BAND search by the BAND objective; its finished folder and its configuration."""
    run = config(seed=3, behavior_weight=0.5, train={**TRAIN, "monitor": "valid_band", "smooth": 0.4})
    space = {**SPACE, "hyper.behavior_weight": {"low": 0.1, "high": 2.0, "change": 0.5}}
    run = searching(run, space=space)
    return trained(tmp_path_factory.mktemp("band"), recording, run), run


def path_of(lineage: list[dict[str, str]], winner: int) -> list[dict[str, str]]:
    """Return the rows of the winner and of its ancestors, first generation first."""
    by_place = {(int(row["generation"]), int(row["member"])): row for row in lineage}
    path, number = [], winner
    for generation in range(max(g for g, _ in by_place), -1, -1):
        path.append(by_place[generation, number])
        number = int(path[-1]["parent"] or number)
    return path[::-1]


def test_a_finished_search_is_five_files_and_says_who_won(band_run):
    folder, run = band_run
    result = verify(folder)
    assert set(result["manifest"]) == {"lineage.csv", "metrics.csv", "model.pt", "outputs.h5"}
    assert run_config_from_dict(result["config"]) == run, "its configuration is the one that was asked for"
    told = result["training"]["pbt"]
    last = [row for row in rows(folder) if int(row["generation"]) == told["generations"] - 1]
    assert (told["members"], told["generations"], len(last)) == (5, 5, 5)
    assert {key: float(last[told["winner"]][key]) for key in told["hyper"]} == told["hyper"]
    assert "behavior_r2/own/mean" in result["scores"]["test"] and "noci/bits_per_spike" in result["scores"]["test"]


def test_every_parent_was_there_and_every_value_is_what_its_name_draws(band_run):
    folder, run = band_run
    space, lineage = run.pbt.searched(), rows(folder)
    assert [(int(r["generation"]), int(r["member"])) for r in lineage] == [(g, m) for g in range(5) for m in range(5)]
    assert [int(r["epochs"]) for r in lineage[::5]] == [4, 6, 8, 10, 12], "burn-in, then one generation after another"
    replaced = 0
    for row in lineage[5:]:
        generation, number, parent = (int(row[key]) for key in ("generation", "member", "parent"))
        before = {int(r["member"]): r for r in lineage if int(r["generation"]) == generation - 1}
        is_child = parent != number
        replaced += is_child
        assert not is_child or float(before[parent]["score"]) < float(before[number]["score"])
        for key, param in space.items():
            taken = float(before[parent][key])
            name = f"{run.seed}/{generation}/{number}/{key}"
            assert float(row[key]) == (explore(param, taken, name) if is_child else taken)
    assert replaced == 4 * 2, "of five members two pairs are drawn a generation"


def test_the_learning_rate_of_the_winners_line_is_the_one_that_it_was_trained_at(band_run):
    folder, _ = band_run
    path = path_of(rows(folder), verify(folder)["training"]["pbt"]["winner"])
    steps = [float(row["lr"]) for row in metrics(folder)]
    begin = 0
    for row in path:
        assert steps[begin : int(row["epochs"])] == [float(row["hyper.lr"])] * (int(row["epochs"]) - begin)
        begin = int(row["epochs"])
    assert len(steps) == begin == 12
    for row in path:  # and the score of a generation is the one that its last epoch left
        assert float(row["score"]) == metrics(folder)[int(row["epochs"]) - 1]["monitor_smoothed"]


def test_the_objective_of_band_is_mean_reconstruction_and_what_behaviour_lacks(band_run):
    folder, run = band_run
    smoothed = math.nan
    for row in metrics(folder):
        score = row["valid_recon"] / (12 * 9) + 1 - row["valid_behavior_r2"]  # 12 bins of 9 neurons
        smoothed = score if math.isnan(smoothed) else run.train.smooth * score + (1 - run.train.smooth) * smoothed
        assert abs(row["monitor_smoothed"] - smoothed) < 1e-6 * abs(smoothed)


def test_what_is_done_with_a_run_afterwards_takes_the_winner(band_run):
    folder, _ = band_run
    model = open_model(folder)
    assert score(model, own_trials(model))[0] == verify(folder)["scores"]
    run = band.load_run(folder)
    assert run.lineage["member"].tolist() == [*range(5)] * 5 and np.isnan(run.lineage["parent"][:5]).all()
    assert run.config.pbt.members == 5, "what was asked for"


def test_lfads_stays_lfads_whatever_of_behaviour_is_searched(recording, tmp_path):
    space = {**SPACE, "hyper.behavior_weight": {"low": 0.1, "high": 2.0}}
    run = searching(config(seed=3, train={**TRAIN, "max_epochs": 6, "monitor": "valid_band"}), space=space)
    folder = trained(tmp_path, recording, run)
    assert set(rows(folder)[0]) == {"generation", "member", "parent", "epochs", "score", *SPACE}
    assert verify(folder)["scores"]["test"].get("behavior_r2/own/mean") is None
    assert metrics(folder)[0]["monitor_smoothed"] == pytest.approx(metrics(folder)[0]["valid_recon"] / 108 + 1)


def test_a_child_takes_over_weights_moments_and_best_and_keeps_its_own_learning_rate(recording):
    run = searching(config(seed=3, train=TRAIN), members=4)
    search = Search("run", run)
    first = dict(search.first_members())
    loop = make_loop(recording, first)
    while not all(member.has_ended for member in loop.population.members):
        loop.end_epochs(loop.step())
    ended = loop.population
    search.begin_generation({number_of(name): member for name, member in first.items()})
    members = {number_of(member.run_id): member for member in ended.members}
    parents = search.end_generation(members)
    following = next_population(search, ended, members, parents, Ranks(4))
    assert sum(number != parent for number, parent in enumerate(parents)) == 2
    for number, parent in enumerate(parents):
        child, before = following.members[number], ended.members[parent]
        for name in ("best", "sums"):
            assert torch.equal(getattr(following, name)[number], getattr(ended, name)[parent])
        assert torch.equal(following.params.flat[number], ended.params.flat[parent])
        for new, old in zip(following.moments, ended.moments, strict=True):
            assert torch.equal(new[number], old[parent]) and bool(new[number].any())
        assert child.history == before.history and child.history is not before.history
        assert child.schedule.smoothed == before.schedule.smoothed and child.schedule.best == before.schedule.best
        is_child = number != parent
        assert (child.config.hyper.lr != before.config.hyper.lr) == is_child
        assert child.schedule.lr == child.config.hyper.lr and not child.has_ended
    # The step that follows is taken at the child's rate: AdamW's step is the rate times what the parent's moments make.
    assert torch.equal(
        make_next_rates(following, recording), torch.tensor([m.config.hyper.lr for m in following.members])
    )


def make_next_rates(population, recording):
    """Return the step sizes that a loop over this population uses."""
    trials = Trials.load(recording, [population.members[0].config], device=torch.device("cpu"))
    return Loop(population, trials, places=dict.fromkeys((m.run_id for m in population.members), 0))._by_epoch[0]


def test_members_that_diverge_are_replaced_and_never_stall_the_rest(recording, tmp_path):
    space = {**SPACE, "hyper.lr": {"low": 1e-3, "high": 1e20, "change": 0.3}}
    folder = trained(tmp_path, recording, searching(config(seed=1, train=TRAIN), space=space, members=8))
    result, lineage = verify(folder), rows(folder)
    lost = [row for row in lineage if not row["score"]]
    assert result["training"]["outcome"] == "ok" and len(lost) == result["training"]["pbt"]["diverged"] > 0
    for row in lineage[8:]:
        before = lineage[8 * (int(row["generation"]) - 1) + int(row["parent"])]
        assert before["score"], "nobody descends from a member that diverged"
    assert all(row["score"] for row in lineage[-8:]) and len(metrics(folder)) == 12


def test_a_search_whose_members_all_diverge_ends_diverged(recording, tmp_path):
    space = {"hyper.lr": {"low": 1e19, "high": 1e20}}
    folder = trained(tmp_path, recording, searching(config(seed=1, train=TRAIN), space=space))
    training = verify(folder)["training"]
    assert training["outcome"] == "diverged" and training["reason"] and training["pbt"]["winner"] is None
    assert [row["score"] for row in rows(folder)] == [""] * 5


def test_it_stops_where_generations_gain_too_little_and_not_before_the_ramps_have_ended(recording, tmp_path):
    run = config(seed=1, kl_increase_epoch=7, train={**TRAIN, "max_epochs": 60})
    folder = trained(tmp_path, recording, searching(run, stop_generations=2, stop_ratio=0.5))
    training = verify(folder)["training"]
    # Generations end after epochs 4, 6, 8, 10; the first with full weights is that of epoch 8.
    assert training["stopped_by"] == "stop_ratio" and training["epochs"] == 10
    assert training["best_epoch"] >= 7 and training["pbt"]["generations"] == 4


def test_no_member_stops_early_or_loses_speed_at_a_plateau(recording, tmp_path):
    run = config(seed=1, lr_patience=0, lr_decay=0.5, lr_stop=4e-3, train={**TRAIN, "stop_patience": 1})
    folder = trained(tmp_path, recording, searching(run, space={"hyper.cd_rate": SPACE["hyper.cd_rate"]}))
    assert [row["lr"] for row in metrics(folder)] == [5e-3] * 12


def test_members_start_apart_in_weights_and_settings(recording):
    first = Search("run", searching(config(seed=3, train=TRAIN))).first_members()
    assert len({member.seed for _, member in first}) == len({member.hyper.lr for _, member in first}) == 5
    again = Search("run", searching(config(seed=3, train=TRAIN), members=7)).first_members()
    assert [m.hyper for _, m in again[:5]] == [m.hyper for _, m in first], "more members leave the first as they are"


@pytest.fixture(scope="module")
def undisturbed(recording, tmp_path_factory):
    run = searching(config(seed=5, behavior_weight=0.5, train={"max_epochs": 40, "checkpoint_s": 0.05}), members=6)
    folder = tmp_path_factory.mktemp("undisturbed")
    worker = Worker(write_task(folder, recording, {"search": run}), folder / "work", recording, ["search"])
    events = list(worker.events())
    assert worker.wait() == 0
    return run, folder / "work" / "runs" / "search", events


@pytest.mark.parametrize("seed", range(3))
def test_a_search_killed_at_random_moments_ends_bit_identical(undisturbed, recording, tmp_path, seed):
    run, folder, events = undisturbed
    moments = random.Random(seed)
    train_with_kills(tmp_path, recording, {"search": run}, moments=moments, within=len(events) // 5, kills=4)
    again = tmp_path / "work" / "runs" / "search"
    assert_same(finished(again), finished(folder))
    assert (again / "lineage.csv").read_bytes() == (folder / "lineage.csv").read_bytes()


def test_the_supervisor_hears_of_the_run_alone(undisturbed):
    _, _, events = undisturbed
    assert events[0]["event"] == "started" and events[0]["runs"] == ["search"]
    assert all(event["runs"] == ["search"] for event in events if event["event"] == "checkpoint")
    epochs = [event["runs"]["search"] for event in events if event["event"] == "epoch"]
    assert epochs[-1]["epoch"] == epochs[-1]["max_epochs"] == 40
    assert [event["run"] for event in events if event["event"] == "run_finished"] == ["search"]


def test_outputs_are_made_anew_after_a_kill_without_training_again(undisturbed, recording, tmp_path):
    run, folder, _ = undisturbed
    worker = Worker(write_task(tmp_path, recording, {"search": run}), tmp_path / "work", recording, ["search"])
    for event in worker.events():
        if event["event"] == "outputs":
            worker.process.kill()
            break
    worker.wait()
    step = newest_checkpoint(tmp_path / "work")[1]["meta"]["step"]
    assert step == verify(folder)["training"]["steps"]
    shutil.rmtree(tmp_path / "work" / "runs")
    again = Worker(tmp_path / "task.json", tmp_path / "work", recording, ["search"])
    assert next(again.events())["step"] == step and again.wait() == 0
    assert_same(finished(tmp_path / "work" / "runs" / "search"), finished(folder))


def test_a_checkpoint_of_another_search_is_refused(undisturbed, recording, tmp_path):
    run, _, _ = undisturbed
    task = write_task(tmp_path, recording, {"search": run})
    worker = Worker(task, tmp_path / "work", recording, ["search"])
    for event in worker.events():
        if event["event"] == "checkpoint":
            worker.process.kill()
            break
    worker.wait()
    values = json.loads(task.read_text())
    values["runs"][0]["config"]["pbt"]["selection"] = "truncation"
    task.write_text(json.dumps(values))
    worker = Worker(task, tmp_path / "work", recording, ["search"])
    events = list(worker.events())
    assert worker.wait() == 1 and "pbt.selection" in events[-1]["message"]


def test_a_task_may_hold_searches_beside_other_runs(recording, tmp_path):
    short = {"max_epochs": 6}
    runs = {
        "plain": config(seed=1, train=short),
        "search": searching(config(seed=1, train=short)),
        "other": searching(config(seed=2, train=short), selection="truncation"),
    }
    worker = Worker(write_task(tmp_path, recording, runs), tmp_path / "work", recording, list(runs))
    assert worker.wait() == 0
    assert {run for run in runs if verify(tmp_path / "work" / "runs" / run)} == set(runs)
    alone = trained(tmp_path / "alone", recording, runs["plain"])
    assert_same(finished(alone), finished(tmp_path / "work" / "runs" / "plain"))


def test_a_member_that_trains_on_is_not_disturbed_by_selection(recording, tmp_path):
    """A search in which nobody is replaced trains its members as a plain population of their settings does."""
    run = searching(config(seed=4, train={**TRAIN, "max_epochs": 6}), selection="truncation", members=3)
    folder = trained(tmp_path, recording, run)
    number = next(n for n in range(3) if all(not r["parent"] or int(r["parent"]) == n for r in rows(folder)[n::3]))
    member = dict(Search("run", run).first_members())[f"run/{number:03d}"]
    member = dataclasses.replace(member, train=dataclasses.replace(member.train, max_epochs=6))
    alone = metrics(trained(tmp_path / "alone", recording, member))
    line = [float(row["score"]) for row in rows(folder)[number::3]]
    assert np.allclose([alone[3]["monitor_smoothed"], alone[5]["monitor_smoothed"]], line, rtol=1e-5)
