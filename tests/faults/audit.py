"""Every write to the table of insights, kept by a trigger of the harness: what the table itself forgets.

Law: the trigger only writes down. Twice: one version of one analysis of one record that was written more than once (a
second row of history cannot be, its key forbids it, so the history's writes are counted, too). Out of order: a version
that is lower than the one before it.
"""

from __future__ import annotations

from tests.faults.stand import Stand

INSTALL = """
CREATE TABLE IF NOT EXISTS fault_audit (
  seq bigserial PRIMARY KEY, source text NOT NULL, account text NOT NULL, object text NOT NULL, record_id text NOT NULL,
  analysis text NOT NULL, epoch int NOT NULL, snapshot_offset bigint NOT NULL, generation int NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE OR REPLACE FUNCTION fault_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO fault_audit (source, account, object, record_id, analysis, epoch, snapshot_offset, generation)
  VALUES (TG_TABLE_NAME, NEW.account, NEW.object, NEW.record_id, NEW.analysis, NEW.epoch, NEW.snapshot_offset, NEW.generation);
  RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER fault_audit AFTER INSERT OR UPDATE ON insights FOR EACH ROW EXECUTE FUNCTION fault_audit();
CREATE OR REPLACE TRIGGER fault_audit AFTER INSERT OR UPDATE ON insight_history FOR EACH ROW EXECUTE FUNCTION fault_audit();
"""
_TWICE = """
  SELECT source, account, object, record_id, analysis, epoch, snapshot_offset, generation, count(*)
  FROM fault_audit GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 HAVING count(*) > 1 AND max(seq) > %s
"""
_BACK = """
  SELECT account, object, record_id, analysis, snapshot_offset, before FROM (
    SELECT *, lag(snapshot_offset) OVER (PARTITION BY account, object, record_id, analysis ORDER BY seq) AS before,
           lag(ROW (epoch, snapshot_offset, generation)) OVER (PARTITION BY account, object, record_id, analysis ORDER BY seq)
             > ROW (epoch, snapshot_offset, generation) AS down
    FROM fault_audit WHERE source = 'insights'
  ) AS x WHERE down AND seq > %s
"""


def install(stand: Stand) -> None:
    """Once, after the migration."""
    stand.sql(INSTALL)


def position(stand: Stand) -> int:
    """Where the audit stands now."""
    return stand.sql("SELECT coalesce(max(seq), 0) FROM fault_audit")[0][0]


def twice(stand: Stand, since: int) -> list[str]:
    """Versions that were written again after `since`."""
    return [
        f"{row[0]} {'/'.join(row[1:5])}: version {row[5]}.{row[6]}.{row[7]} was written {row[8]} times"
        for row in stand.sql(_TWICE, (since,))
    ]


def out_of_order(stand: Stand, since: int) -> list[str]:
    """Versions that went down after `since`."""
    return [f"insights {'/'.join(row[:4])}: from offset {row[5]} to {row[4]}" for row in stand.sql(_BACK, (since,))]
