"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPONENTS = ("config", "broker", "edge", "detector", "bridge", "fleet", "console")
CODE = sorted(path for folder in (*COMPONENTS, "bench") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60
TOPIC = re.compile(r"[\"'](vigil/v1|camera/|node/|registry/|receipt/|reject/|probe/)")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*CODE, *TESTS], ids=name)
def test_modules_and_functions_stay_readable(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= MODULE_LINES_MAX
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES_MAX, node.name


@pytest.mark.parametrize("path", CODE, ids=name)
def test_only_the_contract_spells_a_topic(path: Path) -> None:
    if name(path) != "broker/topics.py":
        assert not TOPIC.findall(path.read_text())


@pytest.mark.parametrize("path", CODE, ids=name)
def test_only_the_supervisor_catches_everything(path: Path) -> None:
    if name(path) != "config/supervise.py":
        assert not re.findall(r"except(?: Exception| BaseException)?(?: as \w+)?:", path.read_text())


@pytest.mark.parametrize("path", [path for path in CODE if not name(path).startswith("bench")], ids=name)
def test_every_module_says_what_it_offers(path: Path) -> None:
    tree = ast.parse(path.read_text())
    targets = [t.id for n in tree.body if isinstance(n, ast.Assign | ast.AnnAssign) for t in _names(n)]
    if any(not isinstance(node, ast.Expr | ast.ImportFrom) for node in tree.body):
        assert "__all__" in targets or path.name == "__main__.py"


def _names(node: ast.Assign | ast.AnnAssign) -> list[ast.Name]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target for target in targets if isinstance(target, ast.Name)]


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.py")), ids=name)
def test_a_benchmark_takes_its_folder_out_of_the_way_before_it_imports_a_package_of_that_name(path: Path) -> None:
    modules = [node.module or "" for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
    ours = [module.partition(".")[0] for module in modules if module.partition(".")[0] in {*COMPONENTS, "bench"}]
    shadowed = {file.stem for file in (ROOT / "bench").glob("*.py")} & set(COMPONENTS)
    assert not shadowed & set(ours) or ours[0] == "bench"


@pytest.mark.parametrize("component", COMPONENTS)
def test_what_a_module_offers_exists(component: str) -> None:
    module = __import__(component)
    for offered in getattr(module, "__all__", ()):
        assert hasattr(module, offered)
