"""Kill -9 the bridge, the detector, the broker in turn while `vigil up` runs: is everything in the journal once?

Prints each kill, what the mesh says at its end, and the audit. Target: missing 0, repeated 0.

    python bench/kill.py [--for SECONDS] [--engine embedded|mosquitto]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

VICTIMS = ("bridge", "detector", "broker")


def role_pid(parent: int, role: str) -> int | None:
    """The child of `vigil up` that runs `role`."""
    for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in tasks.read_text().split():
            arguments = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
            if role in arguments:
                return int(child)
    return None


def run(state: Path, length_s: int, engine: str) -> tuple[int, str]:
    """Run the mesh and kill each victim once; returns how often something was killed, and what the mesh said."""
    vigil = [sys.executable, "-m", "console", "--state", str(state)]
    site = state / "vigil.yaml"
    site.write_text("detector: {rules: {presence: {for_s: 0.3, cooldown_s: 2}}}\n")
    command = [*vigil, "--config", str(site), "up", "--engine", engine, "--for", f"{length_s}s"]
    mesh = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    kills = 0
    started_s = time.monotonic()
    for turn, victim in enumerate(VICTIMS, start=1):
        time.sleep(max(0.0, started_s + turn * length_s / (len(VICTIMS) + 1) - time.monotonic()))
        pid = role_pid(mesh.pid, victim)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            kills += 1
            print(f"{time.monotonic() - started_s:5.1f} s  kill -9 {victim}")
    said, _ = mesh.communicate(timeout=length_s + 120)
    return kills, said


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--for", dest="length_s", type=int, default=60)
    parser.add_argument("--engine", choices=["embedded", "mosquitto"], default="embedded")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kills, said = run(Path(folder), options.length_s, options.engine)
        print("\n".join(said.splitlines()[-8:]))
        audit = subprocess.run(
            [sys.executable, "-m", "console", "--state", folder, "audit", "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
    found = msgspec.json.decode(audit.stdout)
    proven = kills == len(VICTIMS)
    for kind in ("events", "escalations"):
        sums = found[kind]
        print(
            f"kill -9 x {kills} on {options.engine}: {sums['raised']} {kind} raised, {sums['waiting']} waiting, "
            f"{sums['missing']} missing, {sums['repeated']} repeated in the journal "
            "(target: 3 kills, raised > 0, missing 0, repeated 0)"
        )
        proven = proven and sums["raised"] > 0 and not (sums["missing"] or sums["repeated"])
    return 0 if proven else 1


if __name__ == "__main__":
    raise SystemExit(main())
