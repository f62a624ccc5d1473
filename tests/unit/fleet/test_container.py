"""How a role in a container is asked for; `tests/e2e/test_agent.py` runs one behind an engine's boundary."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.messages import Hardware
from config.sources import load_settings
from fleet.agent.container import container_command
from fleet.agent.wanted import WantedRole

HARDWARE = Hardware(gpus=("NVIDIA T4",) * 3, cameras=("v4l2:/dev/video0",))


def command(engine: str, folder: Path, gpus: tuple[int, ...] | None) -> str:
    (folder / "footage").mkdir(exist_ok=True)
    footage = {"folder": folder / "footage"}
    settings = load_settings(None, {"node": "gpu", "state_dir": folder / "state", "edge": {"footage": footage}})
    wanted = WantedRole("detector.2", ("detector", "--role", "detector.2"), gpus=gpus, image="mine:1", engine=engine)
    return " ".join(
        container_command(
            wanted,
            settings,
            site_file=folder / "state" / "agent" / "vigil.yaml",
            hardware=HARDWARE,
            notify={"NOTIFY_SOCKET": "/tmp/vigil-x/detector.2", "WATCHDOG_USEC": "60000000"},
            secrets=["VIGIL_BUS__PASSWORD"],
        )
    )


@pytest.mark.parametrize(
    ("engine", "gpus", "asked"),
    [
        ("docker", None, " --gpus all mine:1"),
        ("docker", (0, 2), ' --gpus "device=0,2" mine:1'),
        ("docker", (), " --device /dev/video0 mine:1"),
        ("podman", None, " --device nvidia.com/gpu=all mine:1"),
        ("podman", (0, 2), " --device nvidia.com/gpu=0 --device nvidia.com/gpu=2 mine:1"),
        ("podman", (), " --device /dev/video0 mine:1"),
    ],
)
def test_each_engine_is_asked_for_gpus_in_its_own_words(
    tmp_path: Path, engine: str, gpus: tuple[int, ...] | None, asked: str
) -> None:
    said = command(engine, tmp_path, gpus)
    assert asked in said
    assert said.startswith(f"{engine} run --rm --interactive --network host --name vigil-home-gpu-detector.2 ")
    assert said.endswith(
        f" vigil --until-stdin-closes --config {tmp_path}/state/agent/vigil.yaml detector --role detector.2"
    )


def test_it_has_this_users_rights_the_node_s_folders_and_what_it_says_reaches_the_agent(tmp_path: Path) -> None:
    docker, podman = (command(engine, tmp_path, None) for engine in ("docker", "podman"))
    assert f" --user {os.geteuid()}:{os.getegid()} " in docker
    assert " --sdnotify ignore " in podman, "else podman keeps for itself what the agent is to hear"
    for said in (docker, podman):
        for folder in (tmp_path / "state", tmp_path / "footage", "/tmp/vigil-x"):
            assert f" --volume {folder}:{folder} " in said
        assert " --env NOTIFY_SOCKET=/tmp/vigil-x/detector.2 " in said
        assert " --env VIGIL_BUS__PASSWORD " in said
