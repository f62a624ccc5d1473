"""Kafka's jars, fetched once by Maven into the user's cache folder (XDG_CACHE_HOME moves it).

`python -m tests.support.kafka.jars` fetches them ahead of the first test.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

import platformdirs

__all__ = ["JarsError", "jars_folder", "java_program", "why_no_kafka"]

_POM = Path(__file__).with_name("pom.xml")
_JAVA_MIN = 17  # what a Kafka 4 server asks for
_FETCH_TIMEOUT_S = 900.0


class JarsError(RuntimeError):
    """Maven could not fetch the jars; the message carries what it said."""


def java_program() -> str | None:
    """The `java` of JAVA_HOME, else the one on PATH."""
    home = os.environ.get("JAVA_HOME")
    return (shutil.which("java", path=f"{home}/bin") if home else None) or shutil.which("java")


def _java_version(java: str) -> int:
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=60)
    version = re.search(r'version "(\d+)', answer.stderr)
    return int(version.group(1)) if version else 0


def why_no_kafka() -> str | None:
    """The reason why no Kafka can run here, None where one can."""
    java = java_program()
    if java is None or _java_version(java) < _JAVA_MIN:
        return f"no Java {_JAVA_MIN} or later for a Kafka: sudo apt-get install default-jre-headless"
    if not _cached_folder().is_dir() and shutil.which("mvn") is None:
        return "no Maven to fetch a Kafka with: sudo apt-get install maven"
    return None


def jars_folder() -> Path:
    """The folder with Kafka's jars; the first call fetches them, 44 MB.

    Concurrency: processes that call it at once wait for the one that fetches.

    Raises:
        JarsError: they cannot be fetched.
    """
    folder = _cached_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _fetch(folder)
    return folder


def _cached_folder() -> Path:
    versions = ET.parse(_POM).getroot().iter("{http://maven.apache.org/POM/4.0.0}kafka.version")
    return platformdirs.user_cache_path("vigil") / f"kafka-{next(versions).text}"


def _fetch(folder: Path) -> None:
    """Let Maven copy the jars beside `folder`, which comes into being when all of them are there."""
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder.parent) as scratch:
        command = [
            *("mvn", "--batch-mode", "--quiet", "--file", str(_POM), "dependency:copy-dependencies"),
            *("-DincludeScope=runtime", f"-DoutputDirectory={scratch}/jars"),
        ]
        maven = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FETCH_TIMEOUT_S)
        if maven.returncode:
            raise JarsError(f"Maven could not fetch Kafka's jars:\n{maven.stdout[-2000:]}{maven.stderr[-2000:]}")
        Path(scratch, "jars").rename(folder)


def main() -> None:
    """Fetch them, or say why not."""
    reason = why_no_kafka()
    if reason is not None:
        sys.exit(reason)
    try:
        jars_folder()
    except JarsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
