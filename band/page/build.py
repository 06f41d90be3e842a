"""The page put together: one file, its script allowed by digest alone, no address that it could load anything from."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from band.files import write_atomic
from band.page import sections
from band.page.data import curves, details, page_data
from band.page.markup import Markup, el, json_block
from band.page.sections import Page, Part
from band.sweep.cost import cost_of
from band.sweep.lineage import read_lineages
from band.sweep.manifest import read_manifest
from band.sweep.report import Report
from band.sweep.shown import choose_shown

NAME = "report.html"


def write_page(report: Report, *, folder: Path, figures: Sequence[Path] = ()) -> Path:
    """Write report.html into a folder and return its path.

    Args:
        report: of one sweep or several.
        folder: where it goes, and whence its links to runs lead.
        figures: files of the static figures, in a folder beside it.
    """
    collection = report.collection
    page = Page(
        report=report,
        shown=choose_shown(report.comparisons),
        folder=folder,
        figures={path.stem: path for path in figures if path.suffix == ".png"},
        manifests=[read_manifest(one) for one in collection.folders],
        lineages=read_lineages((run.folder, run.training) for run in collection.runs),
        cost=cost_of(collection.folders, collection.runs),
    )
    path = folder / NAME
    write_atomic(path, html_of(page).encode())
    return path


def html_of(page: Page) -> str:
    """Return the page."""
    data = page_data(page.report, page=page.folder, lineages=page.lineages, cost=page.cost)
    parts = _parts(page, data)
    runs = page.runs
    blocks = [json_block("data", data), json_block("curves", curves(runs)), json_block("details", details(runs))]
    scripts = [_asset("echarts.min.js"), _asset("page.js")]
    title = f"{page.report.collection.name}: LFADS beside BAND"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_policy(scripts)),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="generator", content="band-sweep report"),
        el("title", title),
        Markup(f"<style>{_asset('page.css')}</style>"),
        Markup("<noscript><style>.panels{display:none}.twin{display:block}.scripted{display:none}</style></noscript>"),
    )
    contents = el("ul", *(el("li", el("a", part.title, href=f"#{part.anchor}")) for part in parts))
    dialog = el("dialog", id="run", aria_labelledby="run-title")
    body = el(
        "body",
        el("a", "Skip to the content", href="#main", class_="skip"),
        el("header", el("h1", page.report.collection.name), el("p", _lead(page), class_="lead")),
        el("nav", contents, aria_label="Contents"),
        el("main", *(_section(part) for part in parts), id="main", tabindex="-1"),
        dialog,
        *blocks,
        *(Markup(f"<script>{script}</script>") for script in scripts),
    )
    return "<!doctype html>\n" + el("html", head, body, lang="en") + "\n"


def _parts(page: Page, data: Mapping[str, Any]) -> list[Part]:
    found = [
        sections.what(page),
        sections.beside(page),
        sections.sweeps(page),
        sections.effects(page),
        sections.runs_section(page),
        sections.learning(page),
        sections.spikes(page, panels=len(data["scatter"]["panels"])),
        sections.movement(page),
        sections.trials(page),
        sections.ablation(page, panels=len(data["ablation"])),
        sections.lineage(page),
        sections.failures(page),
        sections.cost(page),
        sections.how(page),
    ]
    return [part for part in found if part is not None]


def _section(part: Part) -> Markup:
    heading = f"{part.anchor}-title"
    return el("section", el("h2", part.title, id=heading), part.body, id=part.anchor, aria_labelledby=heading)


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _lead(page: Page) -> str:
    runs, comparisons = page.runs, page.report.comparisons
    pairs = sum(len(c.lfads) for c in comparisons if c.is_pair)
    sessions = len({run.session for run in runs})
    return (
        f"{len(runs)} published run{_s(len(runs))} of LFADS and BAND on {sessions} recording{_s(sessions)}, "
        f"{pairs} pair{_s(pairs)} with nothing but the weight of behaviour between them; scores on test."
    )


def _asset(name: str) -> str:
    return (files("band.page") / "assets" / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """Return what the page may do: run these scripts, and nothing from anywhere else."""
    digests = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
