"""Pulls, pushes and questions over a network that fails come to what they come to over one that does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reliability import network
from reliability.network import World, strike, two_machines

CASES = (
    ("pull", "cut after so many bytes"),
    ("push", "cut after so many bytes"),
    ("pull", "silent for good"),
    ("push", "banner and login noise"),
    ("status", "host key changed"),
)


@pytest.fixture(scope="module")
def world(can_run_sshd: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with two_machines(tmp_path_factory.mktemp("network")) as machines:
        yield machines


@pytest.mark.parametrize(("deed", "fault"), CASES)
def test_whatever_befalls_the_network_the_same_command_again_does_the_rest(world: World, deed: str, fault: str) -> None:
    found = strike(world, deed=deed, fault=fault, seed="0")
    assert found.hit and found.is_good, found


def test_what_is_not_as_it_was_sent_is_seen(world: World) -> None:
    def spoil(machines: World) -> object:
        machines.undo.append(lambda: (machines.far.home / "at-maze-0" / "more").write_text("x"))
        return lambda: True

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(network.FAULTS, "spoilt", spoil)
        assert strike(world, deed="push", fault="spoilt", seed="0").lost == 1
