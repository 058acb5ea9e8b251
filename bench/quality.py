"""Precision and recall of what the product says about records: `make bench-quality`; the last line is JSON.

`HOOKLINE_PROVIDER` chooses who answers; duplicates and defects ask no model and come out the same with any.
"""

from __future__ import annotations

import json

from bench import claims, defects, duplicates
from infra.settings import Settings


def main() -> None:
    settings = Settings()
    same = duplicates.measure()
    print(
        "Duplicates: splink_fake_1000, pairs of one cluster, on the half of the clusters that no weight was fitted on"
    )
    print(f"  {same['pairs']} true pairs, {same['compared']} pairs compared of all that share a block")
    print(
        f"  precision {same['precision']}  recall {same['recall']}  F1 {same['f1']};  {same['too_bare']} pairs hold a row too bare to be recognised"
    )
    wrong = defects.measure()
    print(
        f"Defects: {wrong['records']} made records of both CRMs, {wrong['planted']} with one planted defect; told {wrong['told']}"
    )
    for kind, row in wrong["kinds"].items():
        print(f"  {kind:14} planted {row['planted']:4}  precision {row['precision']}  recall {row['recall']}")
    asked = claims.measure(settings)
    print(
        f"Claims of provider {asked['provider']}: {asked['claims']} made, {asked['claims_kept']:.1%} borne out by the record, {asked['unusable_answers']} answers of no use"
    )
    print(
        json.dumps(
            {
                "duplicates_precision": same["precision"],
                "duplicates_recall": same["recall"],
                "duplicates_f1": same["f1"],
                "defects_precision": wrong["precision"],
                "defects_recall": wrong["recall"],
                **{key: asked[key] for key in ("provider", "claims", "claims_kept", "unusable_answers")},
            }
        )
    )


if __name__ == "__main__":
    main()
