from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
LOCKS = ("requirements.lock", "requirements-dev.lock")
COMPONENTS = ("config", "broker", "edge", "detector", "bridge", "fleet", "console")
HEAVY = ("ai_edge_litert", "amqtt", "confluent_kafka", "cryptography", "cv2", "fastapi", "onnxruntime", "uvicorn")


def pins(lock: str) -> dict[str, set[str]]:
    """The locked versions by project; some differ between Pythons."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9.-]+)==([^ ]+)", (ROOT / lock).read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    run = [sys.executable, "-c", code]
    return subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_extras_are_those_of_the_design() -> None:
    assert set(EXTRAS) == {
        "edge",
        "store",
        "detector",
        "detector-gpu",
        "tflite",
        "telemetry",
        "parquet",
        "bridge",
        "embedded",
        "node",
        "fleet",
        "console",
        "all",
    }
    (everything,) = EXTRAS["all"]
    assert Requirement(everything).extras == set(EXTRAS) - {"all", "detector-gpu"}


def test_a_camera_node_asks_for_numpy_and_pillow_only() -> None:
    assert {Requirement(line).name for line in EXTRAS["edge"]} == {"numpy", "pillow"}


def test_every_component_is_packaged() -> None:
    assert tuple(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == COMPONENTS


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host_and_no_path(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"://|--index|--extra-index|--find-links|@ file| /", text.replace(" \\\n", "\n"))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_a_hash(lock: str) -> None:
    blocks = re.split(r"^(?=[a-z0-9.-]+==)", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]
    assert blocks
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_lock_fits_what_the_project_asks_for() -> None:
    locked = pins("requirements.lock")
    extras = chain.from_iterable(lines for extra, lines in EXTRAS.items() if extra not in ("all", "detector-gpu"))
    asked = map(Requirement, (*PROJECT["project"]["dependencies"], *extras, *PROJECT["dependency-groups"]["build"]))
    assert [str(one) for one in asked if not fits(one, locked)] == []


def test_the_lock_of_the_tools_fits_both() -> None:
    tools, project = pins("requirements-dev.lock"), pins("requirements.lock")
    asked = map(Requirement, PROJECT["dependency-groups"]["dev"])
    assert [str(one) for one in asked if not fits(one, tools)] == []
    assert {name: tools[name] for name in tools.keys() & project if tools[name] != project[name]} == {}


def fits(asked: Requirement, locked: dict[str, set[str]]) -> bool:
    """Whether every locked version of a project satisfies a requirement."""
    versions = locked.get(canonicalize_name(asked.name), set())
    return bool(versions) and all(asked.specifier.contains(version) for version in versions)


@pytest.mark.parametrize("script", ["vigil", ".ci/run"])
def test_a_script_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    shell = "sh" if script == "vigil" else "bash"
    subprocess.run([shell, "-n", str(ROOT / script)], check=True, timeout=10)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck: sudo apt-get install shellcheck")
def test_the_scripts_are_clean() -> None:
    scripts = [str(ROOT / "vigil"), str(ROOT / ".ci" / "run")]
    check = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False, timeout=60)
    assert check.stdout == ""


def test_importing_all_of_a_camera_node_loads_nothing_heavy() -> None:
    loaded = python(f"""
import importlib, pkgutil, sys, edge
names = [module.name for module in pkgutil.walk_packages(edge.__path__, "edge.")]
names = [name for name in names if not name.endswith(".__main__")]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "gi":
            raise
assert names
print(*sorted(set({HEAVY!r}) & set(sys.modules)))
""")
    assert loaded.split() == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_importing_a_component_loads_no_sibling(component: str) -> None:
    siblings = set(COMPONENTS) - {"config", "broker", component}
    loaded = python(f"import sys, {component}; print(*sorted({siblings!r} & set(sys.modules)))")
    assert loaded.split() == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_package_says_what_it_offers_and_does_nothing_else(component: str) -> None:
    body = ast.parse((ROOT / component / "__init__.py").read_text()).body
    assert ast.get_docstring(ast.Module(body, []))
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    assert [ast.unparse(statement) for statement in body if not isinstance(statement, allowed)] == []
