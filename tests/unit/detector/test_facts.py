from __future__ import annotations

import pytest

from detector.facts import ModelFacts, parse_facts, read_facts


@pytest.mark.parametrize(
    "names",
    [
        "{0: 'cat', 1: \"dog's\"}",
        '{"0": "cat", "1": "dog\'s"}',
        "['cat', \"dog's\"]",
        ["cat", "dog's"],
        {0: "cat", 1: "dog's"},
    ],
)
def test_labels_are_read_as_exporters_write_them(names: object) -> None:
    assert read_facts({"names": names, "stride": "32"}).labels == ("cat", "dog's")


def test_a_number_without_a_name_is_called_by_it() -> None:
    assert read_facts({"names": "{1: 'dog', 3: ''}"}).labels == ("class 0", "dog", "class 2", "class 3")


@pytest.mark.parametrize(
    "names",
    [
        "",
        "no list",
        "7",
        "{0: 'cat'",
        "__import__('os').getcwd()",
        "{'cat': 0}",
        "{-1: 'cat'}",
        "{10000000: 'cat'}",
        "[" * 5000,
        None,
    ],
)
def test_what_is_no_list_of_labels_is_left_out(names: object) -> None:
    assert read_facts({"names": names}) == ModelFacts()


def test_the_task_and_the_family_are_read() -> None:
    assert read_facts({"task": "detect", "description": "Ultralytics RTDETR-l model"}) == ModelFacts(
        (), "detect", transformer=True
    )
    assert read_facts({"task": 7, "description": "Ultralytics YOLO11n model"}) == ModelFacts()


def test_one_text_may_hold_all() -> None:
    assert parse_facts("{'task': 'detect', 'names': {0: 'cat'}}") == ModelFacts(("cat",), "detect")
    assert parse_facts('{"task": "classify", "names": {"0": "cat"}}') == ModelFacts(("cat",), "classify")
    assert parse_facts("PK") == ModelFacts()
