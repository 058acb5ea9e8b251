"""Which arrays of a statement are written as one text; that they arrive as they are is shown in tests/connected/test_database_engine.py."""

from __future__ import annotations

import enum

from infra.database.arrays import numbers, read, texts, written


def test_only_arrays_of_texts_and_whole_numbers_are_taken():
    statement, names = read(
        "SELECT %(a)b::text[], %(b)s::int[], %(c)b::bigint[], %(d)b::bytea[], %(e)s, %(f)s::timestamptz[], %(a)s::text[]"
    )
    assert dict(names) == {"a": True, "b": False, "c": False}
    assert (
        statement
        == "SELECT %(a)s::text[], %(b)s::int[], %(c)s::bigint[], %(d)b::bytea[], %(e)s, %(f)s::timestamptz[], %(a)s::text[]"
    )


def test_what_is_written_already_and_what_the_driver_knows_better_stays():
    class Kind(enum.Enum):
        ONE = "one"

    given = {"a": '{"x"}', "b": [Kind.ONE], "c": ("x",), "d": [True], "e": 7}
    names = [("a", True), ("b", True), ("c", True), ("d", False)]
    assert written(given, names) == given


def test_texts_and_numbers_as_postgresql_reads_them():
    assert texts([]) == "{}"
    assert texts(["a", "", None, "NULL", 'q"', "b\\", "{,}"]) == '{"a","",NULL,"NULL","q\\"","b\\\\","{,}"}'
    assert numbers([1, None, -(2**63)]) == "{1,NULL,-9223372036854775808}"
