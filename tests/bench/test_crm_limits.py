"""What `make bench-crm-limits` makes of a portal's tally."""

from bench.crm_limits import LIMIT, Reading, summary


def told(at, **more):
    return {"at": at, "refused": [], "calls": {}, "rows": {}, **more}


def test_refusals_of_the_first_window_are_apart():
    found = summary(told([1_000, 40_000], refused=[2_000, 12_000]), 10.0, 5, 40_000)
    assert (found["refused"], found["refused_after_first_window"]) == (2, 1)


def test_use_is_what_was_used_while_work_waited():
    full = list(range(0, 60_000, 100))  # ten a second, where eleven are allowed
    assert summary(told(full), 10.0, 5, 50_000)["use_of_limit"] == round(100 / LIMIT, 3)
    assert summary(told([*full, *range(60_000, 90_000, 1_000)]), 10.0, 5, 60_000)["use_of_limit"] == round(
        100 / LIMIT, 3
    )
    assert summary(told([0, 100]), 10.0, 5, 100)["use_of_limit"] is None


def test_work_waits_until_the_last_read_of_a_changed_record():
    reading = Reading()
    reads, writes = "objects.batch_read /crm/v3/objects/contacts/batch/read", "objects.batch_update /crm/v3/objects/contacts/batch/update"  # fmt: skip
    reading.look(told([1, 2], calls={reads: 2}))
    reading.look(told([1, 2, 3, 4], calls={reads: 3, writes: 1}))
    reading.look(told([1, 2, 3, 4, 5], calls={reads: 3, writes: 2}))
    assert reading.last == 4


def test_calls_are_held_against_full_batches_of_the_same_rows():
    name = "objects.batch_read /crm/v3/objects/contacts/batch/read"
    found = summary(
        told([0, 1], calls={name: 3, "objects.get /x": 2}, rows={name: 201, "objects.get /x": 2}), 10.0, 5, 1
    )
    assert found["calls_per_full_batches"] == 1.0
    found = summary(told([0, 1], calls={name: 6}, rows={name: 300}), 10.0, 5, 1)
    assert found["calls_per_full_batches"] == 2.0
