"""A manifest gives back what was generated, is found by name, and says what is wrong with it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from signed import signed
from sweep_files import expand_text

from band.config import run_config_from_dict, to_dict
from band.errors import SweepError
from band.sweep.identity import run_id
from band.sweep.manifest import Manifest, Run, find_sweep, manifest_text, parse_manifest, read_manifest


def make_manifest(folder: Path) -> Manifest:
    text = "base: {data.path: r.h5, batch_size: 16, lr: 0.1}\npair: [0.1]\nfolds: 3\ngrid: {gen_dim: [8, 9]}\n"
    expansion = expand_text(folder, text)
    return Manifest(
        name="s",
        base=expansion.base,
        datasets=expansion.datasets,
        runs=[*expansion.runs, Run("gone", 0, {"hyper.lr": 0.2, "seed": 5}, True)],
        source="s.yaml",
        sets=("seeds=3",),
        options={"pack": 4},
    )


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    text = manifest_text(manifest)
    assert parse_manifest(text, path=tmp_path / "manifest.jsonl") == manifest
    assert [json.loads(line)["kind"] for line in text.splitlines()] == ["sweep"] + ["run"] * len(manifest.runs)


def test_the_configuration_of_a_run_is_complete_valid_and_has_its_id(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    for run in manifest.active():
        config = manifest.run_config(run)
        assert to_dict(run_config_from_dict(config)) == config
        assert run_id(config, dataset_digest=manifest.datasets[run.dataset]["digest"]) == run.id
        assert config["data"]["path"] == str((tmp_path / "r.h5").resolve())


def test_a_sweep_older_than_some_fields_has_what_was_done_before_them_and_keeps_its_ids(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    head, *runs = manifest_text(manifest).splitlines()
    values = json.loads(head)
    for section, name in (("train", "matmul_precision"), ("hyper", "lr_patience"), ("data", "guard_trials")):
        del values["base"][section][name]
    del values["base"]["pbt"], values["base"]["seed"]
    older = parse_manifest(signed("\n".join([json.dumps(values), *runs])), path=tmp_path / "manifest.jsonl")
    for run, before in zip(older.active(), manifest.active(), strict=True):
        config = older.run_config(run)
        assert config == manifest.run_config(before) == to_dict(run_config_from_dict(config))
        assert run_id(config, dataset_digest=older.datasets[run.dataset]["digest"]) == run.id


def test_the_configuration_of_a_run_is_a_copy(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    manifest.run_config(manifest.runs[0])["hyper"]["lr"] = 77
    assert manifest.run_config(manifest.runs[0])["hyper"]["lr"] == 0.1


def test_retired_runs_are_kept_but_not_active(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    assert [run.id for run in manifest.runs if run not in manifest.active()] == ["gone"]
    assert manifest.run_config(manifest.runs[-1])["seed"] == 5


def test_a_sweep_is_found_by_path_name_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("sweeps/near", "experiments/sweeps/far"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "manifest.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    assert find_sweep("near") == tmp_path / "sweeps/near"
    assert find_sweep("far") == find_sweep("experiments/far.yaml") == tmp_path / "experiments/sweeps/far"
    assert find_sweep(tmp_path / "sweeps" / "near") == find_sweep("sweeps/near") == tmp_path / "sweeps/near"
    with pytest.raises(SweepError, match=r"no sweep 'nowhere': looked for .*band-sweep generate FILE\.yaml"):
        find_sweep("nowhere")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: [], r"manifest\.jsonl:1: not a line of a manifest"),
        (lambda lines: ["[]", *lines[1:]], r"manifest\.jsonl:1: not a line of a manifest"),
        (
            lambda lines: [lines[0].replace('"schema": 1', '"schema": 9'), *lines[1:]],
            "schema 9 of a sweep; .* reads up to 1",
        ),
        (lambda lines: [lines[0].replace('"pack": 4', '"pack": 1e999'), *lines[1:]], r"manifest\.jsonl:1: .*not JSON"),
        (lambda lines: [lines[0].replace('"digest": "', '"dig": "'), *lines[1:]], r"manifest\.jsonl:1: .*KeyError"),
        (lambda lines: [*lines[:2], lines[2][:20], *lines[3:]], r"manifest\.jsonl:3: not a line of a manifest"),
        (lambda lines: [*lines[:2], '{"kind": "run", "id": "x"}'], r"manifest\.jsonl:3: .*KeyError"),
    ],
)
def test_a_damaged_manifest_is_refused_with_its_line(tmp_path: Path, spoil, message: str) -> None:
    lines = manifest_text(make_manifest(tmp_path)).splitlines()
    (tmp_path / "manifest.jsonl").write_text("\n".join(spoil(lines)))
    with pytest.raises(SweepError, match=message):
        read_manifest(tmp_path)


def test_of_bits_flipped_anywhere_in_a_manifest_none_changes_what_it_says(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    path = tmp_path / "manifest.jsonl"
    data = manifest_text(manifest).encode()
    draws, refused = random.Random(1), 0
    for _ in range(300):
        place = draws.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draws.randrange(8)]) + data[place + 1 :])
        try:
            assert read_manifest(tmp_path) == manifest
        except SweepError:
            refused += 1
    assert refused > 250
    path.write_bytes(b"\n".join(data.split(b"\n")[:-2]) + b"\n")
    with pytest.raises(SweepError, match="altered or is damaged; generate it again"):
        read_manifest(tmp_path)


def test_a_missing_manifest_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="does not exist; write it with `band-sweep generate"):
        read_manifest(tmp_path)
