"""Count the weights of `processors.matching` on the fitting half of tests/data/splink_fake_1000: `python -m bench.fit_matching`.

Prints what goes into WEIGHTS; the other half is never looked at here.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict

from bench.duplicates import FITTING, rows_of, snapshot_of
from processors.matching import blocking_keys, features, levels

SMOOTHING = 0.5


def main() -> None:
    known = [(row["cluster"], found) for row in rows_of(FITTING) if (found := features(snapshot_of(row)))]
    same: dict[str, Counter[str]] = defaultdict(Counter)
    other: dict[str, Counter[str]] = defaultdict(Counter)
    counts = Counter[bool]()
    blocked = Counter[bool]()
    blocks = [set(blocking_keys(found)) for _, found in known]
    for (i, (cluster_a, a)), (j, (cluster_b, b)) in itertools.combinations(enumerate(known), 2):
        table = same if cluster_a == cluster_b else other
        counts[cluster_a == cluster_b] += 1
        blocked[cluster_a == cluster_b] += bool(blocks[i] & blocks[j])
        for field, level, _ in levels(a, b):
            table[field][level] += 1
    for field, agreeing in same.items():
        total_same, total_other = sum(agreeing.values()), sum(other[field].values())
        weights = {
            level: round(
                math.log2(
                    ((agreeing[level] + SMOOTHING) / (total_same + 1))
                    / ((other[field][level] + SMOOTHING) / (total_other + 1))
                ),
                1,
            )
            for level in ("exact", "close", "alike", "near", "other")
        }
        print(field, weights, dict(agreeing), dict(other[field]))
    print(f"pairs: {counts[True]} same, {counts[False]} other; blocks hold {blocked[True]} and {blocked[False]}")


if __name__ == "__main__":
    main()
