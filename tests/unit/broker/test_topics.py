from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from broker import topics
from broker.memory import topic_matches
from broker.topics import CONTRACT, OUTSIDE, DeliveryClass, PayloadKind, parse_topic
from config.errors import BadPayloadError

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True)
ROLES = st.from_regex(r"[a-z][a-z0-9_-]{0,20}(\.[1-9][0-9]{0,2})?", fullmatch=True)


def test_names_are_unique_and_every_line_has_writers_and_readers() -> None:
    assert len({spec.name for spec in CONTRACT}) == len(CONTRACT)
    assert all(spec.writers and spec.readers for spec in CONTRACT)


def test_qos_and_retain_follow_from_the_class() -> None:
    expected = {
        DeliveryClass.FRAME: (0, False),
        DeliveryClass.STATE: (1, True),
        DeliveryClass.EVENT: (1, False),
        DeliveryClass.DURABLE: (1, False),
        DeliveryClass.COMMAND: (2, False),
        DeliveryClass.REPLY: (1, False),
    }
    assert {spec.delivery: (spec.qos, spec.retain) for spec in CONTRACT} == expected


def test_only_json_topics_have_a_struct() -> None:
    for spec in CONTRACT:
        assert (spec.payload is not None) == (spec.kind is PayloadKind.JSON), spec.name


@given(site=NAMES, data=st.data())
@pytest.mark.parametrize("spec", CONTRACT, ids=lambda spec: spec.name)
def test_a_topic_is_read_as_it_was_written(spec: topics.TopicSpec, site: str, data: st.DataObject) -> None:
    params = {}
    for name in spec.placeholders:
        if name == "role":
            params[name] = data.draw(ROLES)
        elif name == "origin":
            params[name] = f"{data.draw(NAMES)}.{data.draw(ROLES)}"
        else:
            params[name] = data.draw(NAMES)
    topic = spec.at(site, **params)
    assert parse_topic(str(topic)) == topic
    assert topic_matches(spec.topic_filter(), str(topic))
    assert topic_matches(spec.topic_filter(site, **params), str(topic))
    assert topic_matches(topics.everything(site), str(topic))


LEVELS = st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True)


@given(prefix=st.lists(LEVELS, min_size=1, max_size=3).map("/".join), data=st.data())
@pytest.mark.parametrize("spec", OUTSIDE, ids=lambda spec: spec.name)
def test_a_topic_of_another_system_is_read_as_it_was_written(
    spec: topics.TopicSpec, prefix: str, data: st.DataObject
) -> None:
    others = {name: data.draw(LEVELS) for name in spec.placeholders if name != "prefix"}
    # The first line that fits is meant: nobody has a node `device` below another system's prefix.
    assume(others.get("id") != "device")
    topic = spec.at("home", prefix=prefix, **others)
    found = parse_topic(str(topic))
    assert (found.spec, found.site, found.params, str(found)) == (spec, "", topic.params, str(topic))
    assert topic_matches(spec.topic_filter(prefix=prefix), str(topic))
    assert not topic_matches(topics.everything(), str(topic))


@pytest.mark.parametrize("value", ["", "a b", "a+b", "#", "a//b", "/a", "ä"])
def test_a_prefix_that_cannot_be_one_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="is no prefix"):
        topics.HOMEASSISTANT_STATUS.at("home", prefix=value)
    with pytest.raises(BadPayloadError):
        parse_topic(f"{value}/status")


@given(st.text(max_size=200))
def test_a_hostile_topic_is_rejected_and_nothing_else(text: str) -> None:
    for candidate in (text, f"vigil/v1/{text}", f"vigil/v1/home/camera/{text}/frame", f"{text}/device/{text}/config"):
        try:
            topic = parse_topic(candidate)
        except BadPayloadError:
            continue
        assert str(topic) == candidate


@pytest.mark.parametrize("name", ["a/b", "a+b", "#", "", " ", "ä", "x" * 64, "-a", "a b"])
def test_a_name_that_cannot_be_a_level_is_refused_with_a_suggestion(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        topics.CAMERA_FRAME.at("home", camera=name)


def test_a_topic_that_is_longer_than_any_is_not_taken_apart() -> None:
    for text in (f"vigil/v1/home/camera/{' ' * 65_000}/frame", f"vigil/v1/{'a/' * 32_000}"):
        with pytest.raises(BadPayloadError, match="not a topic of this contract") as raised:
            parse_topic(text)
        assert len(str(raised.value)) < 500


def test_missing_and_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="takes"):
        topics.CAMERA_FRAME.at("home")
    with pytest.raises(ValueError, match="takes"):
        topics.CAMERA_FRAME.at("home", camera="a", node="b")


def test_topic_filters_match_as_the_standard_says() -> None:
    assert topic_matches("a/+/c", "a/b/c")
    assert topic_matches("a/#", "a")
    assert topic_matches("a/#", "a/b/c")
    assert not topic_matches("a/+", "a/b/c")
    assert not topic_matches("a/b/c", "a/b")
