"""The part of SOQL that the sandbox knows."""

import pytest

from infra.local.sandbox import soql

ROWS = [
    {"Id": "1", "Name": "Anna", "Age": 30.0, "At": "2026-11-22T10:00:00.000+0000", "Ok": True, "City": None},
    {"Id": "2", "Name": "ben", "Age": 41.0, "At": "2026-11-22T11:00:00.000+0000", "Ok": False, "City": "Lyon"},
    {"Id": "3", "Name": "O'Hara", "Age": None, "At": "2026-11-23T10:00:00.000+0000", "Ok": True, "City": "Graz"},
]


def ids(where):
    return "".join(row["Id"] for row in soql.run(soql.parse(f"SELECT Id FROM T {where}"), ROWS))


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("", "123"),
        ("WHERE Name = 'ANNA'", "1"),
        ("WHERE Name != 'anna'", "23"),
        (r"WHERE Name = 'O\'Hara'", "3"),
        ("WHERE Age >= 30 AND Age < 41", "1"),
        ("WHERE Age > 100 OR Ok = true", "13"),
        ("WHERE (Age = 30 OR Age = 41) AND Ok = false", "2"),
        ("WHERE NOT Ok = true", "2"),
        ("WHERE City = null", "1"),
        ("WHERE City != null", "23"),
        ("WHERE At >= 2026-11-22T11:00:00Z", "23"),
        ("WHERE At < 2026-11-22T12:00:00.000+01:00", "1"),
        ("WHERE Name IN ('anna', 'ben')", "12"),
        ("WHERE Name NOT IN ('anna', 'ben')", "3"),
        ("WHERE Name LIKE '%n%'", "12"),
        ("WHERE Name LIKE '_en'", "2"),
        ("ORDER BY Age DESC NULLS LAST", "213"),
        ("ORDER BY Age", "312"),
        ("ORDER BY Ok ASC, Name DESC", "231"),
        ("ORDER BY Name LIMIT 1 OFFSET 1", "2"),
    ],
)
def test_conditions_and_order(where, found):
    assert ids(where) == found


@pytest.mark.parametrize(
    "text",
    ["", "SELECT", "SELECT Id", "SELECT Id FROM", "SELECT Id FROM T WHERE", "SELECT Id FROM T LIMIT x", "SELECT Id FROM T GROUP BY Id",
     "SELECT Id FROM T WHERE Name = 'open", "SELECT (SELECT Id FROM C) FROM T", "SELECT Id FROM T; DROP", "SELECT Id FROM T WHERE a ~ 1",
     "SELECT Id FROM T WHERE " + "(" * 100 + "a = 1" + ")" * 100, "SELECT Id FROM T " + " " * 100_001],
)  # fmt: skip
def test_what_it_does_not_know_is_refused(text):
    with pytest.raises(soql.SoqlError):
        soql.parse(text)
