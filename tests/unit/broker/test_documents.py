from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from broker.documents import asyncapi_document, stale_documents, topics_page, write_documents
from broker.topics import CONTRACT, OUTSIDE, parse_topic

DOCS = Path(__file__).parents[3] / "docs"


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(document: object, reference: str) -> object:
    for part in reference.removeprefix("#/").split("/"):
        assert isinstance(document, dict)
        document = document[part]
    return document


def test_the_documents_in_the_repository_are_fresh() -> None:
    assert stale_documents(DOCS) == []


def test_every_reference_of_the_asyncapi_document_resolves() -> None:
    document = yaml.safe_load(asyncapi_document())
    found = list(references(document))
    assert len(found) > len(CONTRACT)
    for reference in found:
        assert resolve(document, reference)


def test_every_channel_is_a_topic_of_the_contract() -> None:
    document = yaml.safe_load(asyncapi_document())
    names = {
        "site": "home",
        "node": "n",
        "role": "edge",
        "origin": "n.edge",
        "camera": "yard",
        "property": "mode",
        "name": "x",
        "prefix": "homeassistant",
        "component": "switch",
        "id": "yard",
        "key": "privacy",
    }
    for channel in document["channels"].values():
        topic = channel["address"].format_map(names)
        assert str(parse_topic(topic)) == topic
        assert set(channel["parameters"]) <= set(names)


def test_the_page_has_a_row_for_every_topic_and_a_section_for_every_link() -> None:
    page = topics_page()
    for spec in CONTRACT + OUTSIDE:
        assert f"| `{spec.pattern}` |" in page
    for line in page.splitlines():
        for link in line.split("](#")[1:]:
            assert f"### {link.split(')')[0]}".lower() in page.lower()


@pytest.mark.parametrize("name", ["topics.md", "asyncapi.yaml"])
def test_a_changed_or_missing_document_is_stale(tmp_path: Path, name: str) -> None:
    write_documents(tmp_path)
    (tmp_path / name).write_text("old")
    assert stale_documents(tmp_path) == [tmp_path / name]
    (tmp_path / name).unlink()
    assert stale_documents(tmp_path) == [tmp_path / name]
