"""Templates of clusters: an ordinary bash file whose #SBATCH lines are defaults and whose other lines set a job up."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from band.errors import ConfigError, did_you_mean
from band.slurm.options import OPTIONS, SHORT, Value, normalise, read_layer
from band.slurm.user_config import config_folder

FOLDER = "sbatch_templates"
SHELLS = ("bash", "sh")
_MARK = "#SBATCH"
_OTHER_QUEUES = ("#PBS", "#BSUB")
_SEPARATORS = ("hetjob", "packjob")


@dataclass(frozen=True, kw_only=True)
class Template:
    """A cluster as a user describes it."""

    name: str
    path: Path
    text: str
    sbatch: dict[str, Value | None]  # options of its #SBATCH lines, by long name
    setup: tuple[str, ...]  # the lines that a job runs before it starts
    warnings: tuple[str, ...]  # what looks as if it counted and does not


def find_template(name: str, *, folder: Path | None = None) -> Template:
    """Return the template of a cluster.

    Args:
        name: a name, looked up in ./sbatch_templates, the user's configuration and what band ships, or a path.
        folder: what takes the place of the current folder.

    Raises:
        ConfigError: there is none of that name, or it cannot be used as it is.
    """
    here = folder or Path.cwd()
    if "/" in name or name.endswith(".sh"):
        return read_template(here / Path(name).expanduser())
    if name == "local":
        raise ConfigError("local is this machine, no cluster: it has no template; leave --cluster out")
    known = templates(here)
    if name not in known:
        hint = did_you_mean(name, known) if known else "there is none at all"
        raise ConfigError(f"no template {name}.sh in {_places(here)}; {hint}")
    return read_template(known[name])


def templates(here: Path) -> dict[str, Path]:
    """Return {name: path} of all templates; of two of one name, the one nearest to the user."""
    found: dict[str, Path] = {}
    for place in _folders(here):
        for path in sorted(place.glob("*.sh")):
            found.setdefault(path.stem, path)
    return found


def _folders(here: Path) -> tuple[Path, ...]:
    return here / FOLDER, config_folder() / FOLDER, Path(__file__).parents[1] / FOLDER


def _places(here: Path) -> str:
    return f"{here / FOLDER} or {config_folder() / FOLDER}"


def read_template(path: Path) -> Template:
    """Return the template in a file.

    Raises:
        ConfigError: unreadable, no bash script, an option that sbatch has not, a value that it does not take, several
            jobs in one; names the line.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"template {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"template {path}: must be UTF-8 text") from None
    where = f"template {_shown(path)}"
    if "\r" in text:
        raise ConfigError(f"{where}: has line ends of Windows, which bash cannot read: sed -i 's/\\r$//' {path}")
    _check_shell(text, where=where)
    return _Reader(where).read(text, path=path)


def _shown(path: Path) -> str:
    """Return a path as a user would write it."""
    for base, prefix in ((Path.cwd(), ""), (Path.home(), "~/")):
        if path.is_relative_to(base):
            return prefix + str(path.relative_to(base))
    return str(path)


def _check_shell(text: str, *, where: str) -> None:
    first = text.partition("\n")[0]
    words = first.removeprefix("#!").split() if first.startswith("#!") else ["bash"]
    shell = os.path.basename(words[-1] if os.path.basename(words[0]) == "env" else words[0]) if words else ""
    if shell not in SHELLS:
        raise ConfigError(f"{where}:1: must be a bash script, found {first!r}; its lines run in the bash of the job")


class _Reader:
    """Reads a template line by line, as sbatch does."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._line = 0
        self._options: dict[str, object] = {}
        self._setup: list[str] = []
        self._warnings: list[str] = []
        self._command_line = 0  # of the first command: sbatch reads no option below

    def read(self, text: str, *, path: Path) -> Template:
        for self._line, line in enumerate(text.splitlines(), start=1):
            self._take(line)
        return Template(
            name=path.stem,
            path=path,
            text=text,
            sbatch=read_layer(self._options, origin=self._where),
            setup=tuple(self._setup),
            warnings=tuple(self._warnings),
        )

    def _take(self, line: str) -> None:
        if line.startswith(_MARK):
            if self._command_line:
                self._warn(f"sbatch reads no option below the first command, in line {self._command_line}: {line}")
            else:
                self._directive(line[len(_MARK) :])
        elif line.startswith(_OTHER_QUEUES):
            self._warn(f"is not for Slurm and left out: {line}")
        elif self._line > 1 or not line.startswith("#!"):
            if not self._command_line and line.strip() and not line.lstrip().startswith("#"):
                self._command_line = self._line
            if re.match(r"\s+#SBATCH", line) and not self._command_line:
                self._warn(f"sbatch reads an option only at the very beginning of a line: {line.strip()}")
            self._setup.append(line)

    @property
    def _place(self) -> str:
        return f"{self._where}:{self._line}"

    def _warn(self, message: str) -> None:
        self._warnings.append(f"{self._place}: {message}")

    def _directive(self, text: str) -> None:
        words = iter(self._words(text))
        for word in words:
            if word in _SEPARATORS:
                raise ConfigError(f"{self._place}: {word}: a job of band is one process on one node; describe that one")
            if word.startswith("--"):
                self._long(word, words)
            elif word.startswith("-") and len(word) > 1:
                self._short(word[1:], words)
            else:
                raise ConfigError(f"{self._place}: {word!r} is no option of sbatch; a value with blanks needs quotes")

    def _long(self, word: str, words: Iterator[str]) -> None:
        name, equals, value = word.partition("=")
        option = normalise(name, origin=self._place)
        if equals:
            self._set(option, value)
        elif OPTIONS[option][0] == "valued":
            self._set(option, next(words, ""))
        else:
            self._set(option, True)

    def _short(self, letters: str, words: Iterator[str]) -> None:
        """Take "-p gpu", "-pgpu", or several switches in one word, the last perhaps with a value: "-Ht5"."""
        for position, letter in enumerate(letters, start=1):
            if letter not in SHORT:
                raise ConfigError(f"{self._place}: sbatch has no option -{letter}; `sbatch --help` lists them")
            option, rest = SHORT[letter], letters[position:]
            if OPTIONS[option][0] == "switch":
                self._set(option, True)
                continue
            is_given = OPTIONS[option][0] == "valued" and not rest
            self._set(option, next(words, "") if is_given else rest or True)
            return

    def _set(self, option: str, value: object) -> None:
        # Of an option that stands in several lines, sbatch takes the last.
        self._options[option] = Value(value if isinstance(value, str) else "", self._place)

    def _words(self, text: str) -> list[str]:
        """Return the words of a line as sbatch splits it: quotes join, a backslash keeps what follows, # ends it."""
        words: list[str] = []
        word, quote, is_kept = None, "", False
        for character in text:
            if is_kept:
                word, is_kept = (word or "") + character, False
            elif character == "\\":
                is_kept = True
            elif quote and character == quote:
                quote = ""
            elif quote:
                word = (word or "") + character
            elif character in "\"'":
                word, quote = word or "", character
            elif character == "#":
                break
            elif character.isspace():
                words += [] if word is None else [word]
                word = None
            else:
                word = (word or "") + character
        if quote:
            raise ConfigError(f"{self._place}: the quote {quote} is not closed")
        return words + ([] if word is None else [word])
