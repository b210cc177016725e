"""A lease has one holder, however long the answers of the server take; the clock and the bucket are the test's own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from pipeline.durable import s3_lease
from pipeline.durable.s3_lease import LEASE_S, Lease
from pipeline.errors import StoreError

KEY = "store.lock"
COMES, LOST, FAILS = "comes", "is lost", "fails"


class World:
    """A clock that goes on by nothing but waiting, and a bucket; each PUT gets the next of `answers`, then at once."""

    name = url = "bucket"
    away = False

    def __init__(self, *answers: tuple[str, float]) -> None:
        self.now, self.answers = 1000.0, list(answers)
        self.stored: dict[str, tuple[str, float, bytes]] = {}
        self.tags = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def put_if(self, key: str, data: bytes, **condition: str) -> str | None:
        what, seconds = self.answers.pop(0) if self.answers else (COMES, 0.0)
        tag, there = f"tag {next(self.tags)}", self.stored.get(key)
        holds = there is None if "IfNoneMatch" in condition else there is not None and there[0] == condition["IfMatch"]
        if holds:
            self.stored[key] = tag, self.now, data
        self.now += seconds
        if what == FAILS:
            raise OSError("no answer")
        return tag if holds and what == COMES else None  # the second attempt, after an answer was lost, is refused

    def sizes(self, prefix: str) -> dict[str, int]:
        return {key: len(data) for key, (_, _, data) in self.stored.items() if key.startswith(prefix)}

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def age(self, key: str) -> tuple[str, float]:
        tag, put, _ = self.stored[key]
        return tag, self.now - put

    def get(self, key: str, _: int) -> bytes:
        return self.stored[key][2]

    def delete(self, key: str, **_: object) -> None:
        self.stored.pop(key, None)

    def lease(self, lost: Callable[[str], None] = pytest.fail) -> Lease:
        return Lease(self, KEY, lost)  # type: ignore[arg-type]


@pytest.fixture
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(*request.param)
    monkeypatch.setattr(s3_lease, "time", world)
    return world


@pytest.fixture
def rounds(world: World, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the lease is over, at the end of each wait; it is renewed in place, and waits pass at once."""
    over: list[bool] = []

    def wait(seconds: float) -> bool:
        world.now += seconds
        return over.pop(0)

    def thread(*, target: Callable[..., None], args: tuple[float, ...] = (), **_: object) -> SimpleNamespace:
        return SimpleNamespace(start=lambda: target(*args), join=lambda: None)

    event = SimpleNamespace(wait=wait, set=lambda: None, is_set=lambda: False)
    monkeypatch.setattr(s3_lease, "threading", SimpleNamespace(Event=lambda: event, Thread=thread))
    return over


def holder(world: World) -> str:
    return str(json.loads(world.stored[KEY][2])["token"])


@pytest.mark.parametrize(
    "world", [[(what, share * LEASE_S)] for what in (COMES, LOST) for share in (0.6, 0.95, 1.5)], indirect=True
)
def test_an_answer_that_is_lost_or_late_is_no_lease_until_it_is_put_anew(world: World) -> None:
    ours, theirs = world.lease(), world.lease()
    assert ours.take()
    world.now += LEASE_S / 4
    assert not theirs.take() and holder(world) == ours._token
    ours.drop()
    assert theirs.take()
    theirs.drop()


@pytest.mark.parametrize("world", [[(COMES, 1.5 * LEASE_S)], [(LOST, 1.5 * LEASE_S)]], indirect=True)
def test_a_lease_that_another_took_before_the_answer_came_is_theirs(world: World, monkeypatch) -> None:
    ours, theirs, looked = world.lease(), world.lease(), s3_lease.look

    def look(*asked: object) -> tuple[str, float, bytes]:
        monkeypatch.setattr(s3_lease, "look", looked)
        found = looked(*asked)  # ours stands there still
        assert theirs.take()
        return found

    monkeypatch.setattr(s3_lease, "look", look)
    assert not ours.take() and holder(world) == theirs._token
    theirs.drop()


@pytest.mark.parametrize("world", [[(COMES, 0.9 * LEASE_S)] * 2], indirect=True)
def test_a_server_that_always_answers_late_gives_no_lease(world: World) -> None:
    lease = world.lease()
    assert not lease.take() and lease._renewer is None
    lease.drop()
    assert not world.stored


@pytest.mark.parametrize("world", [[(COMES, 0.4 * LEASE_S), *[(FAILS, 0.0)] * 9]], indirect=True)
def test_a_lease_that_cannot_be_renewed_is_given_up_before_it_expires(world: World, rounds: list[bool]) -> None:
    """The time until the first answer came is part of it."""
    rounds += [False] * 9
    begun, told = world.now, []
    world.lease(lambda _: told.append(world.now)).take()
    assert told and told[0] <= begun + LEASE_S


@pytest.mark.parametrize("world", [[(COMES, 0.0), (FAILS, 0.3 * LEASE_S)]], indirect=True)
def test_a_renewal_whose_answer_was_lost_is_put_anew(world: World, rounds: list[bool]) -> None:
    rounds += [False, False]
    with pytest.raises(IndexError):  # in the third wait
        world.lease(lambda _: None).take()
    assert world.age(KEY)[1] == LEASE_S / 4, "its age is not known"


@pytest.mark.parametrize("world", [[(COMES, 0.9 * LEASE_S)] * 9], indirect=True)
def test_a_server_that_is_too_slow_is_no_other_process(world: World) -> None:
    told = r"^s3://b/store: the server took over 30 s to answer.*lease of 60 s"
    with pytest.raises(StoreError, match=told), s3_lease.held(world.lease(), "s3://b/store"):
        pytest.fail("it is not held")
    assert not world.stored, "nobody waits for it"


@pytest.mark.parametrize("world", [[]], indirect=True)
def test_a_share_that_comes_too_late_leaves_nobody_unwatched(world: World) -> None:
    """The whole right would be given up for a share that no thread renews."""
    seat = s3_lease.S3Seat(world, "store", pytest.fail)  # type: ignore[arg-type]
    assert seat.take(follows=False, alone=False) and seat.first
    world.answers += [(COMES, 0.6 * LEASE_S)] * 2
    with pytest.raises(StoreError, match=r"the server took over 30 s to answer"):
        seat.share()
    assert seat._whole.key in world.stored
    seat.leave()
    assert not world.stored
