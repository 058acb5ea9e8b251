"""What headers say, and the window that holds while Redis is away."""

from infra.crm.limits import Policy, Said, Window, bulk_work, hubspot_said, is_bulk, policy_of, salesforce_said
from infra.settings import Settings


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def window(limit: int = 10, share: float = 1.0, **more) -> tuple[Window, Clock]:
    clock = Clock()
    return Window(Policy(4, limit=limit, window_seconds=10.0, **more), share, clock), clock


def test_hubspots_headers_are_read():
    given = {
        "X-HubSpot-RateLimit-Max": "110",
        "X-HubSpot-RateLimit-Remaining": "98",
        "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
        "X-HubSpot-RateLimit-Daily": "250000",
        "X-HubSpot-RateLimit-Daily-Remaining": "249990",
    }
    assert hubspot_said(given) == Said(110, 98, 10.0, 250_000, 10)
    without_day = {name: value for name, value in given.items() if "Daily" not in name}
    assert hubspot_said(without_day) == Said(110, 98, 10.0)
    assert hubspot_said({}) is None
    assert hubspot_said({"X-HubSpot-RateLimit-Max": "many"}) is None


def test_salesforces_header_is_read():
    assert salesforce_said({"Sforce-Limit-Info": "api-usage=18/5000"}) == Said(day_limit=5_000, day_used=18)
    assert salesforce_said({}) is None


def test_no_window_holds_more_calls_than_the_limit_however_long_they_take():
    """INVARIANT: a call counts from its grant until a window after its answer. If it fails, the vendor refuses."""
    own, clock = window(10)
    arrivals: list[float] = []
    under_way: list[tuple[float, float]] = []
    for step in range(4_000):
        clock.now = 1_000.0 + step * 0.01
        for each in [each for each in under_way if each[1] <= clock.now]:
            under_way.remove(each)
            own.give_back()
        if own.take() == 0.0:
            slow = 0.9 if len(arrivals) % 3 else 0.05
            # As late as can be: it arrives in the moment of its answer.
            arrivals.append(clock.now + slow)
            under_way.append((clock.now, clock.now + slow))
    arrivals.sort()
    for place, at in enumerate(arrivals):
        assert sum(at <= other < at + 10.0 for other in arrivals[place:]) <= 10
    assert len(arrivals) >= 0.85 * 10 * 4


def test_who_must_wait_is_told_a_moment_that_suffices():
    own, clock = window(4)
    asked = 0
    for _ in range(30):
        while (wait := own.take()) > 0:
            asked += 1
            clock.now += wait
        own.give_back()
    assert asked <= 2 * 30, "each call asks again at most twice"


def test_alone_a_share_of_the_limit_holds():
    own, clock = window(100, share=0.25)
    taken = 0
    for _ in range(1_000):
        if own.take() == 0.0:
            taken += 1
            own.give_back()
        clock.now += 0.01
    assert 20 <= taken <= 26


def test_no_limit_means_no_wait():
    own, _ = window(0)
    assert [own.take() for _ in range(1_000)] == [0.0] * 1_000


def test_rows_wait_for_others_only_where_the_vendor_says_that_calls_are_scarce():
    """INVARIANT: a lone change of a quiet account is written at once. If it fails, every rep waits for nothing."""
    found, clock = window()
    assert found.worth_waiting() == 0, "nothing was heard"
    found.hear(Said(limit=110, left=60, window_seconds=10.0))
    assert found.worth_waiting() == 0, "half is left"
    found.hear(Said(limit=110, left=20, window_seconds=10.0))
    assert 0.7 < found.worth_waiting() < 0.75, "eight calls' worth of time"
    clock.now += 10.1
    assert found.worth_waiting() == 0, "that is old news"
    found.hear(Said(day_limit=5_000, day_used=4_999))
    assert found.worth_waiting() == 0, "a window is not what is scarce"


def test_a_hold_is_waited_for():
    own, clock = window(10)
    own.hold(3.0)
    own.hold(1.0)
    assert own.take() == 3.0
    clock.now += 3.0
    assert own.take() == 0.0


def test_bulk_work_stops_earlier_than_live_work_and_both_leave_a_share():
    own, _ = window(0, free_share=0.2, bulk_free_share=0.5)
    for used, live, bulk in ((499, False, False), (500, False, True), (799, False, True), (800, True, True)):
        own.hear(Said(day_limit=1_000, day_used=used))
        assert (own.day_is_spent(bulk=False), own.day_is_spent(bulk=True)) == (live, bulk)


def test_bulk_work_is_marked_for_what_is_called_within():
    assert not is_bulk()
    with bulk_work():
        assert is_bulk()
        with bulk_work(False):
            assert not is_bulk()
        assert is_bulk()
    assert not is_bulk()


def test_hubspot_starts_with_its_smallest_limit_and_the_sandbox_with_none():
    live = Settings(_env_file=None)
    sandbox = Settings(_env_file=None, environment="development", sandbox_url="http://127.0.0.1:1")
    assert policy_of(live, "hubspot").limit == 100
    assert policy_of(live, "salesforce").limit == 0
    assert policy_of(sandbox, "hubspot").limit == 0
