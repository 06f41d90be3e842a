"""The machine of a user at home, and the commands typed there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from band.cli import sync


@dataclass
class Home:
    """The near machine, and the commands typed there."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    environment: dict[str, str]

    def band_sync(self, *arguments: str, code: int = 0) -> str:
        """Run `band-sync` here, check its exit code and return all that it printed."""
        self.capture.readouterr()
        found = sync.main(list(arguments))
        said = self.capture.readouterr()
        assert found == code, f"{arguments} ended with {found}:\n{said.out}{said.err}"
        assert "Traceback" not in said.err
        return said.out + said.err

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run `band-sync … --json` and return what it says."""
        return dict(json.loads(self.band_sync(*arguments, "--json", code=code).splitlines()[0]))

    def json_of_source(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Return what the one document of a command says of the one source that it has."""
        (document,) = self.json(*arguments, code=code)["sources"]
        return dict(document)

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Start `band-sync` in a process, and a process group, of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "band.cli.sync", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def configure(self, text: str) -> None:
        """Write the user's configuration."""
        path = Path(os.environ["XDG_CONFIG_HOME"]) / "band/config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
