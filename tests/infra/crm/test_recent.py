"""What hangs on others is remembered for seconds, and never longer than it is true."""

from infra.crm.recent import Recent
from schemas.record import Related


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


ACME = Related(object="company", id="1", fields={"name": "Acme"})


def test_it_is_remembered_for_its_seconds():
    clock = Clock()
    recent = Recent(ttl_seconds=10, clock=clock)
    recent.keep("a", "companies", "1", ACME, recent.now())
    recent.keep("a", "companies", "2", None, recent.now())
    clock.now = 9.0
    assert recent.get("a", "companies", ["1", "2", "3"]) == {"1": ACME, "2": None}
    assert recent.get("b", "companies", ["1"]) == {}
    clock.now = 10.0
    assert recent.get("a", "companies", ["1"]) == {}


def test_what_changed_is_forgotten_and_an_answer_from_before_is_not_remembered():
    clock = Clock()
    recent = Recent(ttl_seconds=10, clock=clock)
    since = recent.now()
    clock.now = 1.0
    recent.forget("a", "companies", ["1"])
    recent.keep("a", "companies", "1", ACME, since)
    assert recent.get("a", "companies", ["1"]) == {}
    clock.now = 2.0
    recent.keep("a", "companies", "1", ACME, recent.now())
    assert recent.get("a", "companies", ["1"]) == {"1": ACME}


def test_it_stays_small():
    clock = Clock()
    recent = Recent(ttl_seconds=10, most=10, clock=clock)
    for number in range(100):
        recent.keep("a", "companies", str(number), ACME, recent.now())
    assert 1 <= len(recent.get("a", "companies", map(str, range(100)))) <= 10


def test_what_changed_stays_small_and_an_answer_from_before_is_still_not_remembered():
    """INVARIANT: whoever reads thousands of changed records a second spends no time on them again, and trusts no older answer."""
    clock = Clock()
    recent = Recent(ttl_seconds=1_000, most=10, clock=clock)
    since = recent.now()
    clock.now = 1.0
    recent.forget("a", "companies", ["1"])
    for number in range(100):
        clock.now = 2.0 + number
        recent.forget("a", "companies", [f"other {number}"])
    assert len(recent._forgotten) <= 10
    recent.keep("a", "companies", "1", ACME, since)
    assert recent.get("a", "companies", ["1"]) == {}
    clock.now = 200.0
    recent.keep("a", "companies", "1", ACME, recent.now())
    assert recent.get("a", "companies", ["1"]) == {"1": ACME}


async def test_only_what_is_not_remembered_is_read_and_what_is_not_there_is_remembered_too():
    recent, asked = Recent(ttl_seconds=10), []

    async def read(missing):
        asked.append(list(missing))
        return {"1": ACME} if "1" in missing else {}

    assert await recent.through("a", "companies", ["1", "2"], read) == {"1": ACME}
    assert await recent.through("a", "companies", ["1", "2"], read) == {"1": ACME}
    assert await recent.through("a", "companies", ["2", "3"], read) == {}
    assert asked == [["1", "2"], ["3"]]


async def test_what_changed_while_it_was_read_is_read_again():
    recent, asked = Recent(ttl_seconds=10), []

    async def read(missing):
        asked.append(list(missing))
        recent.forget("a", "companies", ["1"])
        return {"1": ACME}

    for _ in range(2):
        assert await recent.through("a", "companies", ["1"], read) == {"1": ACME}
    assert asked == [["1"], ["1"]]
