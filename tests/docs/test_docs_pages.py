"""The pages of docs/: every block is run as it is printed, in order, in a project of its own, or says why not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from far_machine import FarMachine, running
from pages import DOCS, ROOT, Block, blocks_of, page_before, pages, prose, was_printed
from slurm_lab.lab import Lab

TRAINER = f"{sys.executable} {ROOT / 'tests/helpers/short_trainer.py'} {sys.executable} -m band.train.worker"
BIN = Path(sys.executable).parent
TIMEOUT_S = 120
FIRST = "ten-minutes.md"
NOT_RUN = 14  # blocks of all pages that are not run: one more is a decision, not an accident


def lay_out(project: Path) -> Path:
    """Make what a clone has, so far as commands need it."""
    for name in ("experiments", "sbatch_templates", "docs", "scripts"):
        ignored = shutil.ignore_patterns("sweeps", "__pycache__")
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    (project / "datasets").mkdir()
    (project / ".venv").symlink_to(BIN.parent)
    for name in ("constraints.txt", "pyproject.toml", "Makefile", "mkdocs.yml"):
        shutil.copy(ROOT / name, project / name)
    return project


class Places:
    """Where blocks run: each place is made when a block asks for it."""

    def __init__(self, tmp_path: Path, request: pytest.FixtureRequest | None) -> None:
        self._tmp, self._request = tmp_path, request
        self._projects: dict[str, Path] = {}
        self._far: FarMachine | None = None
        self._closing: list[object] = []

    def project(self, place: str) -> Path:
        """Return the project folder of a place."""
        if place not in self._projects:
            at = self.lab().home / "project" if place == "cluster" else self._tmp / place
            self._projects[place] = lay_out(at)
        return self._projects[place]

    def begin_with(self, project: Path) -> None:
        """Take what a page has left as the project of this one."""
        self._projects["here"] = Path(shutil.copytree(project, self._tmp / "here", symlinks=True))

    def lab(self) -> Lab:
        """Return the cluster, with an environment of Python where the templates look for one."""
        assert self._request is not None
        lab: Lab = self._request.getfixturevalue("slurm_lab")
        if not (lab.home / "band-venv").exists():
            (lab.home / "band-venv").symlink_to(BIN.parent)
        return lab

    def far(self) -> FarMachine:
        """Return the login node of the cluster as ssh reaches it."""
        if self._far is None:
            if subprocess.run([ROOT / "scripts/ssh_packages.sh"], capture_output=True).returncode:
                pytest.skip("sshd or rsync is missing: scripts/ssh_packages.sh --install")
            lab = self.lab()
            environment = {**lab.environment, "BAND_TRAINER": TRAINER}
            inside = lab.login_command([])
            self._far = FarMachine(self._tmp / "login", home=lab.home, environment=environment, inside=inside)
            self._far.write_client_config("Host informatics", "HostName 127.0.0.1", f"Port {self._far.port}")
            manager = running(self._far)
            manager.__enter__()
            self._closing.append(manager)
            (self._tmp / "runtime").mkdir(mode=0o700)
        return self._far

    def configuration(self, place: str) -> Path:
        """Return what is ~/.config in a place."""
        return self.lab().home / ".config" if place == "cluster" else self._tmp / f"config-{place}"

    def run(self, place: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in the project of a place."""
        project = self.project(place)
        if place == "cluster":
            added = [f"BAND_TRAINER={TRAINER}", "COLUMNS=120", "NO_COLOR=1", "MPLBACKEND=Agg"]
            return self.lab().run(["env", *added, *command], cwd=project, timeout_s=TIMEOUT_S)
        environment = {**os.environ, "BAND_TRAINER": TRAINER, "PATH": f"{BIN}:{os.environ['PATH']}"}
        if place == "laptop":
            environment |= self.far().environment(self._tmp / "runtime")
            environment["PATH"] = f"{BIN}:{environment['PATH']}"
        environment |= {"XDG_CONFIG_HOME": str(self.configuration(place)), "HOME": str(self._tmp / f"home-{place}")}
        return subprocess.run(
            command, cwd=project, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=TIMEOUT_S,
        )  # fmt: skip

    def close(self) -> None:
        """End connections and machines."""
        if "laptop" in self._projects and self._far is not None:
            self.run("laptop", ["band-sync", "disconnect", "informatics"])
        for manager in self._closing:
            manager.__exit__(None, None, None)  # type: ignore[attr-defined]


@pytest.fixture
def places(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Places]:
    found = Places(tmp_path, request)
    yield found
    found.close()


def script_of(block: Block, state: Path) -> list[str]:
    """Return the command that runs a block, which goes on in the shell that the block before has left."""
    if block.language == "python":
        return [sys.executable, "-c", block.text]
    before = f"[ ! -e {state} ] || . {state}\n"
    return ["bash", "-c", f"set -eo pipefail\n{before}{block.text}\nexport -p >{state}"]


def write(block: Block, places: Places, place: str) -> None:
    """Write a block to the file that it names."""
    name = block.marks["file"]
    home = "~/.config/"
    path = (
        places.configuration(place) / name.removeprefix(home) if name.startswith(home) else places.project(place) / name
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text)


def walk(page: str, places: Places) -> None:
    """Do what a page shows, block by block."""
    said = ""
    for block in blocks_of(page):
        place = block.marks.get("on", "here")
        where = f"docs/{page}:{block.line}"
        if block.fate == "file":
            write(block, places, place)
        elif block.fate == "prints":
            missing = was_printed(block.text, said)
            assert not missing, f"{where}: not printed: {missing}\nbut:\n{said}"
        elif block.fate == "run":
            done = places.run(place, script_of(block, places.project(place).parent / "shell"))
            said = done.stdout + done.stderr
            wanted = set(map(int, re.findall(r"\d+", block.marks.get("exit", "0"))))
            assert done.returncode in wanted, f"{where}: ended with {done.returncode}:\n{block.text}\n{said}"
            assert "Traceback" not in said, f"{where}:\n{said}"


@pytest.fixture(scope="session")
def first_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that the first page leaves."""
    places = Places(tmp_path_factory.mktemp("first"), None)
    walk(FIRST, places)
    return places.project("here")


@pytest.mark.parametrize("page", [page for page in pages() if any(b.fate == "run" for b in blocks_of(page))])
def test_a_page_does_what_it_shows(page: str, places: Places, request: pytest.FixtureRequest) -> None:
    if page == FIRST:
        request.getfixturevalue("first_page")
        return
    if page_before(page) == FIRST:
        places.begin_with(request.getfixturevalue("first_page"))
    walk(page, places)


@pytest.mark.parametrize("page", pages())
def test_every_block_is_run_or_says_why_it_is_not(page: str) -> None:
    before = ""
    for block in blocks_of(page):
        where = f"docs/{page}:{block.line}"
        assert block.fate, f"{where}: is neither run nor marked; tests/helpers/pages.py has the marks"
        if block.fate == "not run":
            assert len(block.marks["not run"]) > 10, f"{where}: for what reason?"
        if block.fate == "tested":
            assert page in (ROOT / block.marks["tested"]).read_text(), (
                f"{where}: {block.marks['tested']} knows no such page"
            )
        if block.fate == "prints":
            assert before in ("run", "prints"), f"{where}: nothing has run before it"
        before = block.fate
    for line in prose((DOCS / page).read_text()):
        assert not re.match(r"( {4}|\t)\S", line), f"docs/{page}: an indented block cannot be marked; fence it: {line}"


def test_pages_go_on_where_the_first_one_ends() -> None:
    assert {page_before(page) for page in pages()} == {"", FIRST}


def test_what_is_not_run_is_counted() -> None:
    fates = Counter(block.fate for page in pages() for block in blocks_of(page))
    assert fates["not run"] == NOT_RUN and fates["run"] > 40, fates


def test_the_first_page_shows_the_commands_of_the_demo() -> None:
    demo = re.findall(r"^ *run (band-.*)$", (ROOT / "scripts/demo.sh").read_text(), re.MULTILINE)
    shown = "".join(block.text for block in blocks_of("ten-minutes.md") if block.fate == "run")
    for command in demo:
        assert command.replace('"$RECORDING"', "datasets/demo_reach.h5") in shown, command


@pytest.mark.parametrize("name", ["README.md", "experiments/README.md", "band/README.md", "datasets/README.md"])
def test_links_of_the_readmes_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{name}: {target}"


def test_the_site_is_built_without_a_warning_and_needs_no_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    built = sorted((tmp_path / "site").rglob("*.html"))
    assert len(built) >= len(pages())
    for path in built:
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"((?:https?:)?//[^\"]+)", path.read_text())
        assert not loaded, f"{path.name} loads {loaded}"
    for path in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", path.read_text()), path
