"""What ships for Prometheus and Grafana asks for series that there are."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from broker.messages import NodeHealth
from broker.scrape import ROLES
from broker.series import SERIES, Reading, samples_of
from config.errors import EXIT_CONFIG, ConfigError
from console.cli import cli
from tests.support.ports import free_port

DEPLOY = Path(__file__).parents[3] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "vigil.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "vigil.rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
OF_PROMETHEUS = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}
KINDS = {series.name: series.kind for series in SERIES}
TOLD_AS_DROPS = {"refused"}
LABELS = {series.name: {*series.labels, "site", "node", "role", "job", "le"} for series in SERIES}


def queries() -> Iterator[tuple[str, str]]:
    """Every PromQL expression that ships, and what it is called."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("title", "query"), list(queries()))
def test_a_query_asks_for_series_and_labels_that_there_are(title: str, query: str) -> None:
    found = re.findall(r"\b((?:vigil|process)_[a-z0-9_]+|up)\b(?:\{([^}]*)\})?(\[)?", query)
    assert found, title
    for name, selectors, ranged in found:
        if name in OF_PROMETHEUS:
            continue
        series = re.sub(r"_bucket$", "", name)
        assert series in KINDS, f"{title}: no series {name}"
        assert (name != series) == (KINDS[series] == "histogram"), f"{title}: {name}"
        asked = {part.strip() for part in re.findall(r"(\w+)\s*(?:=|!)", selectors)}
        assert asked <= LABELS[series], f"{title}: {name}{{{selectors}}}"
        if KINDS[series] != "gauge":
            assert ranged, f"{title}: a counter is asked for its rate"
    for opening, closing in ("()", "{}", "[]"):
        assert query.count(opening) == query.count(closing), title


def test_what_was_asked_for_is_on_the_dashboard() -> None:
    shown = " ".join(query for _, query in queries())
    for series in ("receive_to_stored", "outbox_to_receipt", "frames_scored", "drops", "capture_to_publish"):
        assert f"vigil_{series}_" in shown
    for series in ("outbox_depth", "cameras_orphaned", "bridge_gaps", "bridge_gaps_of_origin"):
        assert f"vigil_{series}" in shown


def test_no_panel_lies_over_another() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith(".")


def run(tmp_path: Path, *arguments: str, port: int | None = 9460) -> tuple[int, str, BaseException | None]:
    environment = {"VIGIL_METRICS__PORT": str(port)} if port else {}
    options = ("--site", "home", "--node", "porch", "--state", str(tmp_path), "metrics")
    done = CliRunner().invoke(cli, [*options, *arguments], env=environment)
    return done.exit_code, done.output, done.exception


def test_the_scrape_config_names_every_role_of_the_machine(tmp_path: Path) -> None:
    status, said, _ = run(tmp_path, "--scrape-config", "--host", "porch.local")
    assert status == 0
    (job,) = yaml.safe_load(said)["scrape_configs"]
    assert job["job_name"] == "vigil"
    assert {entry["labels"]["role"]: entry["targets"] for entry in job["static_configs"]} == {
        role: [f"porch.local:{9460 + ROLES.index(role)}"]
        for role in ("broker", "edge", "detector", "bridge", "console")
    }
    assert {(entry["labels"]["site"], entry["labels"]["node"]) for entry in job["static_configs"]} == {
        ("home", "porch")
    }


def test_the_list_says_who_answers(tmp_path: Path) -> None:
    port = free_port()
    status, said, _ = run(tmp_path, "--role", "detector.2", "--role", "edge", port=port)
    assert status == 0
    assert said.splitlines() == [
        f"detector.2      http://127.0.0.1:{port + 12}/metrics  nobody answers",
        f"edge            http://127.0.0.1:{port + 1}/metrics  nobody answers",
    ]


def test_without_a_port_it_says_which_setting_is_missing(tmp_path: Path) -> None:
    _, _, error = run(tmp_path, port=None)
    cause = error.__cause__ if error is not None else None
    assert isinstance(cause, ConfigError)
    assert (cause.field, cause.exit_code) == ("metrics.port", EXIT_CONFIG)


def test_a_role_that_tells_nothing_is_refused(tmp_path: Path) -> None:
    status, said, _ = run(tmp_path, "--role", "drill")
    assert status == 2
    assert "these do: broker, edge" in said


def test_the_page_is_written_and_checked(tmp_path: Path) -> None:
    assert run(tmp_path, "--check", str(tmp_path))[0] == 1
    assert run(tmp_path, "--write", str(tmp_path))[0] == 0
    assert run(tmp_path, "--check", str(tmp_path))[0] == 0


def counts_in_code() -> Iterator[tuple[str, str]]:
    """Every count that stands in the code of a component by name: the component, and the name."""
    root = DEPLOY.parent
    for folder in ("edge", "detector", "bridge", "console"):
        for path in sorted((root / folder).rglob("*.py")):
            part = path.relative_to(root).parts[1]
            component = part if part in ROLES else folder
            for node in ast.walk(ast.parse(path.read_text())):
                for name in {*names_in(node)} - TOLD_AS_DROPS:
                    yield component, name
                    if component == "detector":
                        yield "edge", f"scorer_{name}"


def names_in(node: ast.AST) -> Iterator[str]:
    """The names of counts in `Figures(counts={...})` and in the fields of a `_Counts`."""
    if isinstance(node, ast.ClassDef) and node.name == "_Counts":
        yield from (f.target.id for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Figures":
        for keyword in node.keywords:
            if keyword.arg == "counts" and isinstance(keyword.value, ast.Dict):
                yield from (str(key.value) for key in keyword.value.keys if isinstance(key, ast.Constant))


@pytest.mark.parametrize(("component", "name"), sorted(counts_in_code()))
def test_every_count_has_a_series_of_its_own(component: str, name: str) -> None:
    health = NodeHealth(
        node="porch",
        role=component,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        uptime_s=1,
        cpu_percent=0,
        memory_bytes=1,
        disk_free_bytes=1,
        counts={name: 1},
    )
    told = {sample.series.name for sample in samples_of(Reading(health, connected=True))}
    assert "vigil_count" not in told, f"give {component}'s {name} a line in broker/series.py"
