"""What `hookline status` says is to be done about a lag, and that people can read it."""

from __future__ import annotations

import io
from dataclasses import asdict, replace

import pytest
from rich.console import Console

from console.status_lag import LANES, SECTION, Lag, remedy
from schemas.topics import CHANGES, CHANGES_BULK, DELIVERIES, INSIGHTS, INSIGHTS_REDRIVEN, RECORDS


def lag(role="hydrator", topic=CHANGES, messages=7, seconds=90.0, members=2, group=""):
    return Lag(role, group or f"hookline.{role}", topic.name, messages, seconds, members, LANES.get(topic.name, ""), 6)


def said(one, *others, poisoned=(), rest=0.0):
    return remedy(one, [one, *others], poisoned=set(poisoned), rest=rest)


SINK = lag("sinks", INSIGHTS, group="hookline.sink.salesforce")


@pytest.mark.parametrize(("one", "start"), [(lag(members=0), "hydrator"), (replace(SINK, members=0), "sinks")])
def test_what_nobody_reads_is_to_be_started(one, start):
    assert said(one, poisoned={"translator"}) == f"Nobody reads: start `hookline serve {start}`."


@pytest.mark.parametrize("one", [lag(members=0, messages=0, seconds=0.0), replace(SINK, members=0)])
def test_a_role_that_stopped_by_its_poison_limit_is_not_just_to_be_started(one):
    """INVARIANT: started as it is it would stop again, after as many letters. The order is mend, start, redrive."""
    found = said(one, poisoned={one.stage})
    places = [
        found.index(each) for each in ("Mend or roll back", "then start", f"redrive --stage {one.stage} --kind poison")
    ]
    assert places == sorted(places)


def test_what_waits_for_long_although_somebody_reads_is_paused_or_too_slow():
    assert said(lag()) == (
        "Paused or too slow: its /health/ready names what it waits for. If nothing, add replicas, up to the 6 partitions."
    )
    assert "each of the 6 partitions has its reader already" in said(lag(members=6))
    assert said(lag(seconds=59.0)) == said(lag(messages=0, seconds=0.0)) == ""


def test_bulk_work_names_whom_it_waits_for():
    bulk = lag(topic=CHANGES_BULK, messages=90_000)
    waits = said(bulk, lag("analyst", RECORDS, messages=900), replace(SINK, messages=40))
    assert waits == "Bulk work waits for analyst to catch up: see there."
    assert "what live work leaves" in said(bulk, lag("analyst", RECORDS, messages=40))


def test_questions_that_rest_are_no_trouble_and_say_so():
    """For as long as they may rest; of other roles, and without a model that is paid for, nothing rests."""
    one = lag("analyst", RECORDS, seconds=48.0)
    assert said(one, rest=50.0) == "Nothing: questions rest for up to 50 s (HOOKLINE_QUESTION_REST_SECONDS)."
    assert said(replace(one, seconds=90.0), rest=50.0) == said(one) == said(lag(seconds=48.0), rest=50.0) == ""
    assert "Paused" in said(replace(one, seconds=111.0), rest=50.0)
    assert "Paused" in said(replace(one, seconds=61.0))


def test_the_table_is_readable_at_100_columns():
    """Each row is one line, a destination has its name, and what is to be done stands below, once for all lanes of a role."""
    found = [
        lag("translator", DELIVERIES, members=0),
        lag(members=0), lag(topic=CHANGES_BULK, messages=1_234_567, seconds=200_000.0, members=0),
        lag("analyst", RECORDS), SINK, replace(SINK, topic=INSIGHTS_REDRIVEN.name, lane="redriven"),
    ]  # fmt: skip
    rows = [{**asdict(one), "name": one.name, "remedy": said(one)} for one in found]
    page = io.StringIO()
    console = Console(file=page, width=100, highlight=False)
    for each in SECTION.show(rows):
        console.print(each)
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    (far,) = [line for line in lines if "1234567" in line]
    for wanted in ("hydrator", "crm.changes.bulk", "bulk", "2 days, 7:33:20", "0"):
        assert wanted in far
    (redriven,) = [line for line in lines if "crm.insights.redriven" in line]
    assert "sinks salesforce" in redriven
    assert len([line for line in lines if "\u2502" in line]) == len(found)
    assert "hydrator (live, bulk): Nobody reads: start `hookline serve hydrator`." in lines
    assert "translator: Nobody reads: start `hookline serve translator`." in lines
