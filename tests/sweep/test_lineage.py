"""The lineage of population-based training is read from whatever file there is, and drawn as far as it goes."""

from __future__ import annotations

import math
from dataclasses import replace

from band.sweep.collect import PublishedRun
from band.sweep.figure_lineage import lineage_figure
from band.sweep.figure_runs import pbt_lineage
from band.sweep.figure_style import style
from band.sweep.lineage import read_lineages
from band.sweep.shown import Shown

HEAD = "generation,member,parent,hyperparameters,score\n"


def read(tmp_path, text, training=None):
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    (folder / "lineage.csv").write_text(text)
    return read_lineages([(folder, training or {}), (tmp_path / "missing", {})])


def test_ancestors_lead_from_the_first_generation_to_the_best_of_the_last(tmp_path):
    rows = [(0, "a", "", 5), (0, "b", "", 3), (1, "a", "b", 2.5), (1, "b", "b", 4), (2, "a", "b", 2), (2, "b", "a", 1)]
    text = HEAD + "".join(f'{g},{m},{p},"{{""lr"": 0.1}}",{s}\n' for g, m, p, s in rows)
    (lineage,) = read(tmp_path, text)
    best = lineage.best()
    assert (best.generation, best.member, best.hyperparameters) == (2, "b", {"lr": "0.1"})
    assert [(m.generation, m.member) for m in lineage.ancestors(best)] == [(0, "b"), (1, "a"), (2, "b")]
    (told,) = read(tmp_path, text, {"pbt": {"winner": "a"}})  # who won may have been better before the end
    assert (told.best().generation, told.best().member) == (2, "a")
    with style():
        figure = pbt_lineage([lineage])
    assert len(figure.axes[0].lines) == 4 + 2  # from parent to child, and the best one's line over it


def test_who_descends_from_whom_by_what_a_search_writes(tmp_path):
    rows = [(0, 0, ""), (0, 1, ""), (0, 2, ""), (1, 0, 0), (1, 1, 0), (1, 2, 2), (2, 0, 2), (2, 1, 1), (2, 2, 2)]
    text = "generation,member,parent,epochs,score,hyper.lr\n"
    text += "".join(f"{g},{m},{p},{5 * (g + 1)},{'' if m else 10 - g},0.{m}\n" for g, m, p in rows)
    (found,) = read(tmp_path, text, {"pbt": {"winner": 0}})
    places = {id(member): place for place, member in enumerate(found.members)}
    assert [places[id(m)] for m in found.line()] == [2, 5, 6], "member 0 came from 2, which was there from the start"
    descents = [(places[id(parent)], places[id(child)]) for parent, child in found.descents()]
    assert descents == [(0, 3), (0, 4), (2, 5), (5, 6), (4, 7), (5, 8)]
    assert found.settings == ["hyper.lr"]
    last = found.members[7]
    assert (last.value("epochs"), last.value("hyper.lr")) == (15, 0.1) and math.isnan(last.value("score"))


def test_a_search_is_drawn_by_epochs_with_what_it_searched_and_another_run_is_not(tmp_path):
    text = "generation,member,parent,epochs,score,hyper.lr,hyper.l2\n"
    text += "0,0,,5,3,0.01,1\n0,1,,5,,0.02,2\n1,0,1,10,1,0.03,3\n1,1,0,10,2,0.04,4\n"
    (tmp_path / "lineage.csv").write_text(text)
    parameters = {"hyper.behavior_weight": 0.0, "data.fold": 0, "seed": 0, "train.monitor": "valid_recon"}
    parameters["pbt.space"] = '{"hyper.lr": {"draw": "loguniform", "low": 0.001, "high": 0.1}}'
    run = PublishedRun(
        id="r", folder=tmp_path, session="s", parameters=parameters, outcome="ok", scores={}, split={},
        training={"pbt": {"winner": 0}},
    )  # fmt: skip
    with style():
        figure = lineage_figure(Shown(setting=(), by_weight={0.0: [run]}))
    axes = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_ylabel() for axes in axes] == ["reconstruction, valid", "lr", "l2"]
    assert [axes.get_yscale() for axes in axes] == ["linear", "log", "linear"]
    quiet, winners = axes[1].collections[:2]
    assert [line.tolist() for line in winners.get_segments()] == [[[5, 0.02], [10, 0.03]]]
    assert [line.tolist() for line in quiet.get_segments()] == [[[5, 0.01], [10, 0.04]]]
    assert lineage_figure(Shown(setting=(), by_weight={0.0: [replace(run, training={})]})) is None


def test_broken_lines_missing_parents_and_columns_of_their_own_do_no_harm(tmp_path):
    text = (
        HEAD.replace("hyperparameters", "hyper.lr")
        + "x,a,,1,1\n1,,,1,1\n1,b,zz,0.5,nan\n2,c,b,0.2,3\n2,d,q\n\n3.0,e,c,,inf\n"
    )
    (lineage,) = read(tmp_path, text)
    assert [(m.generation, m.member, m.score) for m in lineage.members] == [
        (1, "b", None),
        (2, "c", 3.0),
        (2, "d", None),
        (3, "e", None),
    ]
    assert lineage.members[0].hyperparameters == {"hyper.lr": "0.5"} and lineage.best().member == "c"
    assert read(tmp_path, "\x00\xff nothing") == [] and read(tmp_path, "") == []


def test_a_member_that_is_its_own_ancestor_ends_nothing(tmp_path):
    (lineage,) = read(tmp_path, HEAD + "0,a,a,,1\n1,a,a,,2\n")
    assert len(lineage.ancestors(lineage.members[1])) == 2
