"""The lineage of population-based training is read from whatever file there is, and drawn as far as it goes."""

from __future__ import annotations

from band.sweep.figure_runs import pbt_lineage
from band.sweep.figure_style import style
from band.sweep.lineage import read_lineages

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
