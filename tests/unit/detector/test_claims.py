"""Claims that cross: whose camera it is when the broker has put them in order."""

from __future__ import annotations

from broker.messages import CameraOwner
from detector.claims import Claims
from tests.support.messages import AT

ME, OTHER = "me.detector", "other.detector"


def word(worker: str, epoch: int) -> CameraOwner:
    return CameraOwner(camera="yard", worker=worker, epoch=epoch, at=AT)


def hear(claims: Claims, worker: str, epoch: int, now_s: float = 0.0) -> str | None:
    return claims.on_owner("yard", word(worker, epoch), AT, now_s)


def holding(epoch: int) -> Claims:
    claims = Claims(ME)
    assert claims.claim("yard", word(OTHER, epoch - 1)) == epoch
    assert hear(claims, ME, epoch) == "gained"
    return claims


def test_a_camera_is_ours_when_our_claim_comes_back() -> None:
    claims = Claims(ME)
    assert claims.claim("yard", None) == 1
    assert claims.held == {}
    assert not claims.may_claim("yard", 0.0)
    assert hear(claims, ME, 1) == "gained"
    assert claims.held["yard"].epoch == 1
    assert claims.held["yard"].since == AT


def test_a_newer_claim_takes_it() -> None:
    claims = holding(4)
    assert hear(claims, OTHER, 5) == "lost"
    assert claims.held == {}
    assert hear(claims, OTHER, 6) is None


def test_of_two_claims_that_cross_the_last_one_holds() -> None:
    first, last = Claims(ME), Claims(OTHER)
    for claims in (first, last):
        claims.claim("yard", word("dead.detector", 4))
    assert (hear(first, ME, 5), hear(last, ME, 5)) == ("gained", None)  # the broker's order
    assert (hear(first, OTHER, 5), hear(last, OTHER, 5)) == ("lost", "gained")
    assert first.held == {}
    assert last.held["yard"].epoch == 5


def test_a_claim_that_somebody_overtakes_before_it_is_back_is_given_up() -> None:
    claims = Claims(ME)
    claims.claim("yard", None)
    assert hear(claims, OTHER, 2) == "lost"
    assert hear(claims, ME, 1) is None
    assert claims.held == {}


def test_an_outdated_claim_is_put_right() -> None:
    claims = holding(4)
    assert hear(claims, OTHER, 3) == "defend"
    assert claims.held["yard"].epoch == 4
    assert claims.defended == 1


def test_after_a_new_connection_ours_comes_last_unless_it_is_older() -> None:
    claims = holding(4)
    claims.reconnected()
    assert hear(claims, OTHER, 4) is None  # the broker had forgotten us: what we hold was published again after that
    assert hear(claims, ME, 4) is None
    assert claims.held["yard"].epoch == 4
    assert hear(claims, OTHER, 4) == "lost"


def test_what_somebody_took_is_not_claimed_again_at_once() -> None:
    claims = holding(4)
    hear(claims, OTHER, 5, now_s=10.0)
    assert not claims.may_claim("yard", 11.9)
    assert claims.may_claim("yard", 12.1)


def test_what_became_an_orphan_may_be_claimed_at_once() -> None:
    claims = holding(4)
    assert hear(claims, "", 5, now_s=10.0) == "lost"
    assert claims.may_claim("yard", 10.0)


def test_a_released_camera_is_nobodys() -> None:
    claims = holding(4)
    assert claims.release("yard")
    assert not claims.release("yard")
    assert hear(claims, OTHER, 5) is None


def test_the_word_of_a_process_before_us_with_our_name_is_not_ours() -> None:
    claims = Claims(ME)
    assert hear(claims, ME, 7) is None
    assert claims.held == {}
    assert claims.claim("yard", word(ME, 7)) == 8
