"""The sections of the page, each from the report and what the sweeps left on disk."""

from __future__ import annotations

import base64
from collections.abc import Collection as Names
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from band import __version__
from band.errors import BandError
from band.page import methods
from band.page.data import link, swept
from band.page.markup import Markup, el, join, table
from band.run_dir import SweepDir
from band.sweep.across import Across
from band.sweep.collect import PublishedRun
from band.sweep.compare import is_band_alone
from band.sweep.cost import GIB, Cost
from band.sweep.effects import Effect
from band.sweep.failures import groups, standouts
from band.sweep.fold import AttemptFold
from band.sweep.lineage import Lineage
from band.sweep.manifest import Manifest
from band.sweep.report import Report, Section, explain, label_of, show
from band.sweep.shown import MOST_ROWS, Shown, name_of
from band.sweep.statistics import Summary
from band.sweep.status import Survey, TaskState, take_survey

MOST_RUNS_NAMED = 8
MOST_UNFOLDED = 24  # rows of a table that is not folded up
MOST_SETTINGS = 60  # rows of a table of settings on the page; all are in the terminal's and in results.csv


@dataclass(frozen=True, kw_only=True)
class Part:
    """One section of the page: what it is called in the list of contents, and what is in it."""

    anchor: str
    title: str
    body: Markup


@dataclass(frozen=True, kw_only=True)
class Page:
    """What sections are made from."""

    report: Report
    shown: Shown
    folder: Path  # where the page lies
    figures: Mapping[str, Path]  # PNG of each figure that was drawn, by name; the PDF lies beside it
    manifests: Sequence[Manifest]
    lineages: Sequence[Lineage]
    cost: Cost

    @property
    def runs(self) -> Sequence[PublishedRun]:
        """All published runs."""
        return self.report.collection.runs


class _NoScheduler:
    """Stands in for a scheduler where a page is made from files alone."""

    def task_states(self, tasks: Names[str]) -> Mapping[str, TaskState]:
        return {}

    def endings(self, tasks: Mapping[str, Sequence[AttemptFold]]) -> Mapping[str, TaskState]:
        return {}


# Pieces ---------------------------------------------------------------------------------------------------------------


def run_link(page: Page, run: PublishedRun) -> Markup:
    """Return a link to a run: its numbers on the page, its folder without scripts."""
    return el("a", run.id, href=link(run, page=page.folder), data_run=run.id)


def picture(
    page: Page, name: str, caption: object, *, charts: int = 0, kind: str = "", runs: Iterable[PublishedRun] = ()
) -> Markup | None:
    """Return a figure: charts that the script draws, or the picture itself; None where there is neither.

    The picture stands in for the charts in print and without scripts.
    """
    path = page.figures.get(name)
    if path is None and not charts:
        return None
    linked = [run_link(page, run) for run in runs]
    hint = el("span", " Click a mark to open its run.", class_="hint") if charts else None
    words = join(caption, hint, *([" Runs: ", *_between(linked)] if linked else []))
    files = None
    if path is not None:
        pdf, png = (f"{path.parent.name}/{path.stem}.{suffix}" for suffix in ("pdf", "png"))
        files = el("span", " ", el("a", "PDF", href=pdf), " ", el("a", "PNG", href=png), class_="files")
    image = None
    if path is not None:
        data = base64.b64encode(path.read_bytes()).decode()
        alt = f"{name.replace('_', ' ')}: {_plain(caption)}"
        image = el("img", src=f"data:image/png;base64,{data}", alt=alt, class_="twin" if charts else "still")
        image = image if charts else el("a", image, href=f"{path.parent.name}/{path.name}")
    panels = [
        el("div", class_="chart", data_kind=kind, data_index=n, role="img", aria_label=_plain(caption))
        for n in range(charts)
    ]
    box = el("div", *panels, class_=f"panels {kind}") if panels else None
    extra = " has-twin" if charts and path is not None else ""
    return el("figure", box, image, el("figcaption", words, files), id=f"figure-{name}", class_=f"{name}{extra}")


def _plain(caption: object) -> str:
    return str(caption)


def _between(parts: Sequence[Markup]) -> list[object]:
    found: list[object] = []
    for part in parts:
        found += [", ", part] if found else [part]
    return found


def _shown_runs(page: Page) -> list[PublishedRun]:
    return [run for run in page.shown.pair if run is not None]


def in_words(summary: Summary | None, *, digits: int, sign: str = "") -> Markup:
    """Return a mean with its interval or spread."""
    if summary is None:
        return Markup("–")
    mean = f"{summary.mean:{sign}.{digits}f}"
    if summary.interval is not None:
        error = f"[{summary.interval[0]:{sign}.{digits}f}, {summary.interval[1]:{sign}.{digits}f}]"
    elif summary.spread is not None:
        error = f"({summary.spread[0]:{sign}.{digits}f} … {summary.spread[1]:{sign}.{digits}f})"
    else:
        return join(mean)
    return join(el("b", mean), " ", el("span", error, class_="error"))


def _digits(name: str) -> int:
    return 4 if "bits" in name or "bps" in name else 3


# Sections -------------------------------------------------------------------------------------------------------------


def what(page: Page) -> Part:
    """Return what was run, with which code and data."""
    runs = page.runs
    rows: list[tuple[str, object]] = []
    for manifest in page.manifests:
        own = [run for run in runs if run.sweep == manifest.name]
        sets = f", with {' '.join(manifest.sets)}" if manifest.sets else ""
        rows.append(("sweep", f"{manifest.name}, from {manifest.source or 'a file'}{sets}: {_count(own, manifest)}"))
        for dataset in manifest.datasets:
            rows.append(("recording", _recording(dataset)))
    value = methods.Values(runs)
    rows += [("swept", f"{key}: {value(key)}") for key in swept(runs)]
    rows += [
        ("code", _distinct(runs, lambda p: f"band {str(p.get('code', ''))[:12]}, {_commit(p)}")),
        ("versions", _distinct(runs, lambda p: ", ".join(f"{k} {v}" for k, v in (p.get("versions") or {}).items()))),
        ("machines", _distinct(runs, lambda p: f"{p.get('host')}, {p.get('device')}, {p.get('threads')} threads")),
        ("page", f"written by band-sweep {__version__} from the published runs alone"),
    ]
    terms = [join(el("dt", term), el("dd", words)) for term, words in rows if words]
    return Part(anchor="what", title="What was run", body=join(el("dl", *terms), _common(runs)))


def _count(runs: Sequence[PublishedRun], manifest: Manifest) -> str:
    lfads = sum(run.weight == 0 for run in runs)
    return f"{len(runs)} of {len(manifest.active())} runs published, {lfads} LFADS and {len(runs) - lfads} BAND"


def _recording(dataset: Mapping[str, Any]) -> str:
    shapes = methods.shapes_of(dataset)
    size = ""
    if shapes:
        size = f": {sum(s[0] for s in shapes)} trials, {shapes[0][1]} bins, {shapes[0][2]} neurons"
    return f"{Path(str(dataset.get('path', ''))).name}{size}; content {str(dataset.get('digest', ''))[:12]}"


def _distinct(runs: Sequence[PublishedRun], of: Any) -> str:
    found = list(dict.fromkeys(of(run.provenance) for run in runs if run.provenance))
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(found[:3]) + more


def _commit(provenance: Mapping[str, Any]) -> str:
    commit = provenance.get("commit")
    if not commit:
        return "no commit known"
    return f"commit {str(commit)[:10]}" + (" with changes that were not committed" if provenance.get("dirty") else "")


def _common(runs: Sequence[PublishedRun]) -> Markup:
    """Return the configuration that all runs share, folded up."""
    value = methods.Values(runs)
    keys = [key for key in runs[0].parameters if len(value.all(key)) == 1]
    rows = [(key, value(key)) for key in keys]
    made = table(["parameter", "value"], rows, caption="What all runs have in common", numeric_from=9)
    return el("details", el("summary", "Configuration that all runs have in common"), made)


def beside(page: Page) -> Part:
    """Return LFADS beside BAND: the paired differences, and every table of the report."""
    report = page.report
    panels = len(
        [name for name in report.paired_scores[:4] if any(c.score(name).difference for c in report.comparisons)]
    )
    caption = (
        "Paired differences on test, BAND less LFADS of the same recording, fold, seed and setting. A small dot is a "
        "pair; the bar is the 95 % interval or, below five independent units, the span from the lowest to the highest."
    )
    num_pairs = sum(comparison.is_pair for comparison in report.comparisons)
    if num_pairs > MOST_ROWS:
        caption += f" Shown are the {MOST_ROWS} of {num_pairs} settings with the best bits/spike on valid, best first."
    figure = picture(page, "paired_differences", caption, charts=panels, kind="forest")
    tables = [_section_table(section) for section in report.sections]
    return Part(anchor="beside", title="LFADS beside BAND", body=join(figure if panels else None, *tables))


def _section_table(section: Section) -> Markup:
    rows = []
    for row in section.rows[:MOST_SETTINGS]:
        cells: list[object] = list(row.labels)
        for name in section.scores:
            found, digits = row.comparison.score(name), _digits(name)
            sides = [f"{s.mean:.{digits}f}" if s else "–" for s in (found.lfads, found.band)]
            cells += sides[1:] if is_band_alone(name) else [*sides, in_words(found.difference, digits=digits, sign="+")]
        rows.append(cells)
    notes = [el("li", note) for note in section.notes]
    if len(section.rows) > MOST_SETTINGS:
        notes.append(el("li", f"The first {MOST_SETTINGS} of {len(section.rows)} settings; the terminal shows all."))
    made = table(_section_heads(section), rows, caption=section.title, numeric_from=len(section.labels))
    return join(el("h3", section.title), made, el("ul", *notes, class_="notes") if notes else None)


def _section_heads(section: Section) -> Markup:
    """Return two rows of heads: a score, and below it whose."""
    first = [el("th", label, scope="col", rowspan=2) for label in section.labels]
    second = []
    for name in section.scores:
        sides = ["BAND"] if is_band_alone(name) else ["LFADS", "BAND", "BAND − LFADS"]
        label = label_of(name.removeprefix(section.prefix))
        first.append(el("th", label, scope="colgroup", colspan=len(sides), class_="score"))
        second += [el("th", side, scope="col", class_="number") for side in sides]
    return join(el("tr", *first), el("tr", *second))


def sweeps(page: Page) -> Part | None:
    """Return the sweeps beside each other, where there are several."""
    if len(page.manifests) < 2:
        return None
    found = page.report.across
    if not found:
        words = "No run of one sweep has a counterpart of the same model, recording, fold, seed and setting in another."
        return Part(anchor="sweeps", title="Sweeps beside each other", body=el("p", words))
    scores = list(dict.fromkeys(name for one in found for name in one.by_score))
    heads = ["sweeps", "model", *(word for n in scores for word in (f"{label_of(n)}: first", "second", "difference"))]
    rows = [_across_row(one, scores) for one in found]
    notes = [el("li", f"{one.second} against {one.first}: {_differs(one)}") for one in _first_of_each(found)]
    notes += [el("li", words) for words in dict.fromkeys(explain(s[2]) for one in found for s in one.by_score.values())]
    made = table(
        heads, rows, caption="Second sweep less first, over runs that are equal in what is swept", numeric_from=2
    )
    return Part(anchor="sweeps", title="Sweeps beside each other", body=join(made, el("ul", *notes, class_="notes")))


def _across_row(one: Across, scores: Sequence[str]) -> list[object]:
    cells: list[object] = [f"{one.first}, {one.second}", name_of(one.weight)]
    for name in scores:
        sides, digits = one.by_score.get(name), _digits(name)
        if sides is None:
            cells += ["–"] * 3
        else:
            means = [f"{side.mean:.{digits}f}" for side in sides[:2]]
            cells += [*means, in_words(sides[2], digits=digits, sign="+")]
    return cells


def _first_of_each(found: Sequence[Across]) -> list[Across]:
    return list({one.second: one for one in reversed(found)}.values())[::-1]


def _differs(one: Across) -> str:
    words = [f"{key} {show(a)} → {show(b)}" for key, (a, b) in one.differs.items()]
    return "; ".join(words[:12]) or "no parameter differs that is constant within each (their code or machines may)"


def effects(page: Page) -> Part:
    """Return the effect of each swept parameter."""
    found = page.report.effects
    if not found:
        words = "Nothing but the weight of behaviour, and what is repeated, was swept."
        return Part(anchor="effects", title="Effect of each swept parameter", body=el("p", words))
    panels = len({(e.key, e.score) for e in found if e.score in list(page.report.paired_scores)[:2]})
    caption = "Scores on test against each swept parameter; a dot is a run, lines join means over all else."
    figure = picture(page, "parameter_effects", caption, charts=panels, kind="effect")
    rows = [row for effect in found for row in _effect_rows(effect)]
    heads = ["parameter", "score", "model", "value", "runs", "mean", "against the first value, all else equal"]
    made = table(heads, rows, caption="Paired differences between values of a parameter", numeric_from=4)
    notes = dict.fromkeys(explain(s.difference) for e in found for s in e.steps if s.difference is not None)
    last = "Rank correlation (Spearman) is over runs: an association, in which other parameters may take part."
    listed = [el("li", words) for words in (*notes, last)]
    if len(rows) > MOST_UNFOLDED:
        made = el("details", el("summary", f"Table of {len(rows)} effects"), made)
    body = join(figure, made, el("ul", *listed, class_="notes"))
    return Part(anchor="effects", title="Effect of each swept parameter", body=body)


def _effect_rows(effect: Effect) -> list[list[object]]:
    key, score, digits = effect.key.rpartition(".")[2], label_of(effect.score), _digits(effect.score)
    rows: list[list[object]] = []
    for n, step in enumerate(effect.steps):
        against = join("first") if n == 0 else in_words(step.difference, digits=digits, sign="+")
        rows.append([key, score, effect.model, show(step.value), step.num_runs, f"{step.mean:.{digits}f}", against])
    if not effect.steps and effect.rank_correlation is not None:
        words = f"rank correlation {effect.rank_correlation:+.2f}"
        rows.append([key, score, effect.model, "many values", effect.num_runs, "–", words])
    return rows


def runs_section(page: Page) -> Part:
    """Return parallel coordinates and the table of all runs, which filter each other."""
    caption = (
        "Every run as a line through its hyperparameters and its scores. Drag along an axis to keep the runs that pass "
        "there; the table and the pictures below follow."
    )
    figure = picture(page, "parallel_coordinates", caption, charts=1, kind="parallel")
    search = el(
        "p",
        el(
            "label", "Filter by words ", el("input", id="search", type="search", autocomplete="off", spellcheck="false")
        ),
        " ",
        el("button", "Clear all filters", type="button", id="clear"),
        class_="controls",
    )
    ranges = el("details", el("summary", "Filter by numbers"), el("div", id="ranges", class_="ranges"))
    status = el("p", id="count", role="status", aria_live="polite")
    box = el("div", class_="box tall", id="runs-box", tabindex="0", role="region", aria_label="Table of all runs")
    more = el("p", el("button", "Show more rows", type="button", id="more"), class_="controls")
    skip = el("a", "Skip the table of runs", href="#after-runs", class_="skip")
    after = el("span", id="after-runs", tabindex="-1")
    empty = el("noscript", el("p", "The table of runs needs scripts; results.csv beside this page has the same."))
    body = join(figure, search, ranges, status, skip, box, empty, more, after)
    return Part(anchor="runs", title="Hyperparameters against scores, run by run", body=body)


def learning(page: Page) -> Part:
    """Return the learning curves."""
    caption = (
        "Learning curves on valid, a line a run, at most 60 epochs of each; hover or tap to read one. "
        "The files have the setting that is best on valid, with means over seeds."
    )
    body = picture(page, "learning_curves", caption, charts=3, kind="curves")
    return Part(anchor="learning", title="Learning curves", body=join(body))


def spikes(page: Page, *, panels: int) -> Part | None:
    """Return behaviour against spikes, run by run."""
    caption = (
        "Behaviour R² against bits per spike on test, a dot a run; a line joins LFADS and BAND of one recording, fold, "
        "seed and setting."
    )
    figure = picture(page, "r2_vs_bits", caption, charts=panels, kind="scatter")
    return None if figure is None else Part(anchor="spikes", title="Behaviour against spikes", body=figure)


def movement(page: Page) -> Part | None:
    """Return decoded against true velocity and position."""
    by_condition = "Velocity and the position it integrates to, recorded and decoded, of all test trials by condition."
    examples = "Recorded and decoded behaviour of single test trials, chosen without looking at any model."
    figures = [
        picture(page, "decoded_by_condition", by_condition, runs=_shown_runs(page)),
        picture(page, "example_trials", examples, runs=_shown_runs(page)),
    ]
    if not any(figures):
        return None
    return Part(anchor="movement", title="Decoded and true movement", body=join(*figures))


def trials(page: Page) -> Part | None:
    """Return rasters, rates, factors and inferred inputs."""
    single = (
        "One test trial around movement: spikes, inferred rates, the first principal components of the factors, "
        "inferred inputs with their posterior spread, and the speed of the hand; the dashed line is where it exceeds "
        "a fifth of its peak."
    )
    rasters = "Spikes of two test trials beside the rates that each model infers, neurons in one order."
    figures = [
        picture(page, "single_trial", single, runs=_shown_runs(page)),
        picture(page, "rasters", rasters, runs=_shown_runs(page)),
    ]
    if not any(figures):
        return None
    return Part(anchor="trials", title="Rasters, rates, factors and inferred inputs", body=join(*figures))


def ablation(page: Page, *, panels: int) -> Part | None:
    """Return what the scores are without inferred inputs."""
    caption = (
        "Scores on test with the controller's outputs, the inferred inputs, and with them set to zero; a line a run. "
        "Ridges are fitted anew without them. The files have the setting that is best on valid."
    )
    figure = picture(page, "control_ablation", caption, charts=panels, kind="ablation")
    return None if figure is None else Part(anchor="ablation", title="Without inferred inputs", body=figure)


def lineage(page: Page) -> Part | None:
    """Return the lineage of population-based training, where there is one."""
    if not page.lineages:
        return None
    caption = "Score of every member against generations; lines join parents and children, blue leads to the winner."
    known = {run.id: run for run in page.runs}
    runs = [known[one.run] for one in page.lineages if one.run in known][:MOST_RUNS_NAMED]
    count = min(len(page.lineages), 4)
    figure = picture(page, "pbt_lineage", caption, charts=count, kind="lineage", runs=runs)
    rows = []
    for one in page.lineages:
        best = one.best()
        for member in one.ancestors(best) if best is not None else []:
            values = ", ".join(f"{key} {value}" for key, value in member.hyperparameters.items())
            score = "–" if member.score is None else f"{member.score:.5g}"
            rows.append([one.run, member.generation, member.member, member.parent or "–", score, values])
    heads = ["run", "generation", "member", "parent", "score", "hyperparameters"]
    made = table(heads, rows, caption="The line that leads to the winner", numeric_from=9)
    return Part(anchor="lineage", title="Lineage of population-based training", body=join(figure, made))


def failures(page: Page) -> Part:
    """Return what failed, why, what failures have in common, and what is left out of the tables."""
    body: list[object] = []
    for folder, manifest in zip(page.report.collection.folders, page.manifests, strict=True):
        try:
            survey = take_survey(SweepDir(folder), manifest, scheduler=_NoScheduler())
        except (BandError, OSError) as error:
            body.append(el("p", f"{manifest.name}: {error}"))
            continue
        body.append(_failures_of(manifest.name, survey))
    left_out = [el("li", message) for message in page.report.left_out]
    body.append(join(el("h3", "Left out of the tables"), el("ul", *left_out) if left_out else el("p", "Nothing.")))
    return Part(anchor="failures", title="Failures and what is left out", body=join(*body))


def _failures_of(name: str, survey: Survey) -> Markup:
    counts = ", ".join(f"{count} {state}" for state, count in survey.counts().items())
    found = groups(survey)
    words = el("p", f"{name}: {counts}, as far as the sweep's own files tell.")
    if not found:
        return join(words, el("p", "No run has failed."))
    rows = [
        [f"{group.error}: {group.message.strip().splitlines()[0] if group.message.strip() else ''}", len(group.runs),
         ", ".join(group.runs[:MOST_RUNS_NAMED]), ", ".join(f"{node} ({n})" for node, n in group.nodes.items())]
        for group in found
    ]  # fmt: skip
    made = table(["cause", "runs", "which", "nodes"], rows, caption=f"Failed runs of {name} by cause", numeric_from=9)
    told = [
        el(
            "li",
            f"{s.key} {s.value}: {s.failed} of {s.runs} runs failed, of all others {s.rest_failed} of {s.rest_runs}",
        )
        for s in standouts(survey)
    ]
    return join(words, made, el("ul", *told) if told else None)


def cost(page: Page) -> Part:
    """Return hours, memory asked and used, and the request that would have been enough."""
    spent = page.cost
    rows = [
        ("GPU-hours", f"{spent.gpu_hours:.2f}"),
        ("core-hours", f"{spent.cpu_hours:.2f}"),
        ("attempts", f"{len(spent.attempts)}, the longest {spent.longest_s / 60:.1f} min"),
        ("memory asked", _gib(spent.asked_bytes, "not recorded")),
        ("memory used", _gib(spent.peak_bytes, "not recorded by these runs")),
        ("GPU memory used", _gib(spent.peak_gpu_bytes, "") if spent.peak_gpu_bytes else ""),
        ("enough", _enough(spent)),
    ]
    terms = [join(el("dt", term), el("dd", words)) for term, words in rows if words]
    caption = (
        "Time of every attempt at a task, and memory asked against memory used; above the dashed line is too little."
    )
    figure = picture(page, "cost", caption, charts=2, kind="cost")
    return Part(anchor="cost", title="Cost", body=join(el("dl", *terms), figure))


def _gib(size: int | None, otherwise: str) -> str:
    return otherwise if not size else f"{size / GIB:.2f} GiB a task at most"


def _enough(spent: Cost) -> str:
    memory = f"--mem={spent.enough_bytes // 2**20}M " if spent.enough_bytes else ""
    minutes = int(spent.enough_s // 60)
    time = f"--time={minutes // 60:02d}:{minutes % 60:02d}:00"
    return f"{memory}{time}, by the longest and the largest attempt with a margin"


def how(page: Page) -> Part:
    """Return the paragraph of methods and what it cites."""
    datasets = [dataset for manifest in page.manifests for dataset in manifest.datasets]
    has_lineage = bool(page.lineages)
    words = [el("p", words) for words in methods.paragraphs(page.runs, datasets, has_lineage=has_lineage)]
    cited = [
        el("li", found.words, " ", el("a", found.address, href=found.address) if found.address else None)
        for found in methods.citations(page.runs, has_lineage=has_lineage)
    ]
    return Part(anchor="methods", title="Methods", body=join(words, el("h3", "References"), el("ol", *cited)))
