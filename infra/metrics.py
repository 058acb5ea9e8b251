"""The catalogue of metrics: each said once, one line a metric; docs/metrics.md is made from here.

Law: labels are names from our own code or configuration (topic, cause, part, analysis), never ids of tenants, records or
people: their number is bounded and they hold nothing personal. Counters end in `_total`, times are in seconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client import Counter as _Counter
from prometheus_client import Gauge as _Gauge
from prometheus_client import Histogram as _Histogram

REGISTRY = CollectorRegistry(auto_describe=True)

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SLOW = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)


class _AtHand:
    """The library looks up a series under a lock, each of its labels made a text anew: as much CPU as counting takes twice over.

    Names come as texts here, so one that was asked for before is found by them as they are.
    """

    def labels(self, *values: Any, **named: Any) -> Any:
        """See prometheus_client."""
        # Nothing is ever removed, so what is found without the lock is what the lock would give. A series has none of its own.
        known: dict[tuple[Any, ...], Any] = getattr(self, "_metrics", _NONE)
        found = known.get(values) if not named else None
        return found if found is not None else super().labels(*values, **named)  # type: ignore[misc]  # of the library's class beside it


class Counter(_AtHand, _Counter):
    """See prometheus_client."""


class Gauge(_AtHand, _Gauge):
    """See prometheus_client."""


class Histogram(_AtHand, _Histogram):
    """See prometheus_client."""

    def observe_many(self, amounts: Sequence[float]) -> None:
        """`observe` of each: every lock is taken once."""
        bounds, found = self._upper_bounds, dict[int, int]()
        for amount in amounts:
            place = bisect_left(bounds, amount)
            found[place] = found.get(place, 0) + 1
        self._sum.inc(sum(amounts))
        for place, number in found.items():
            self._buckets[place].inc(number)


_NONE: dict[tuple[Any, ...], Any] = {}


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    return Counter(name, meaning, labels, registry=REGISTRY)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    return Gauge(name, meaning, labels, registry=REGISTRY)


def _histogram(name: str, meaning: str, *labels: str, buckets: tuple[float, ...] = _FAST) -> Histogram:
    return Histogram(name, meaning, labels, registry=REGISTRY, buckets=buckets)


# ingress
REQUESTS = _counter("hookline_ingress_requests_total", "Requests at the front door, by the dialect of the endpoint and what was answered (accepted, or the cause of the refusal).", "source", "answer")  # fmt: skip
REQUEST_SECONDS = _histogram("hookline_ingress_request_seconds", "From the last byte of a request to its answer, the broker's acknowledgement included.", "source")  # fmt: skip
DELIVERIES = _counter("hookline_deliveries_total", "Deliveries that the translator has read.", "source")
CHANGES = _counter("hookline_changes_total", "Changes that the translator has published, by lane.", "source", "lane")
DUPLICATES = _counter("hookline_duplicates_total", "Events that were dropped because they had been seen.", "source")
OVER_RATE = _counter("hookline_changes_over_rate_total", "Changes that went to the bulk lane because their tenant was over its rate.", "source")  # fmt: skip
OWN_EVENTS = _counter("hookline_own_events_total", "Events on our own properties, dropped unread.", "source")
UNREAD_EVENTS = _counter("hookline_unread_events_total", "Events that no analysis reads, and empty deliveries: dropped, by reason.", "source", "reason")  # fmt: skip
RECONCILED = _counter("hookline_reconciled_total", "Records that a CRM listed as changed, by what became of them: known, announced.", "crm", "outcome")  # fmt: skip
REFUSALS_UNRECORDED = _counter("hookline_refusals_unrecorded_total", "Refusals that never reached the admin's list, because PostgreSQL was away for too long.")  # fmt: skip

# change events
EVENTS = _counter(
    "hookline_salesforce_events_total", "Change events of Salesforce that lie on crm.deliveries, acknowledged."
)
EVENT_STREAMS = _gauge("hookline_salesforce_event_streams", "Streams that this process owns, by state (streaming, or why not).", "state")  # fmt: skip
EVENT_STREAM_ENDS = _counter("hookline_salesforce_event_stream_ends_total", "Ends of streams, by gRPC's code, or FENCED, SILENT (no sign of life), KAFKA, POSTGRES, ACCOUNT.", "why")  # fmt: skip
EVENT_CHECKPOINTS = _counter("hookline_salesforce_event_checkpoints_total", "Checkpoints, by outcome: ok, fenced (another owns the stream).", "outcome")  # fmt: skip
EVENT_BEHIND_SECONDS = _gauge("hookline_salesforce_events_behind_seconds", "Of this process's streams the one furthest behind: how long ago what it heard last was committed.")  # fmt: skip
RESYNCS = _counter("hookline_salesforce_resyncs_total", "Objects that were read again as a whole, by cause.", "cause")
RESYNC_RECORDS = _counter("hookline_salesforce_resync_records_total", "Records that these readings announced.")

# processors
SNAPSHOTS = _counter("hookline_snapshots_total", "What the hydrator found for a record: published, unchanged, gone, refused, set_aside, erased.", "object", "outcome")  # fmt: skip
COALESCED = _counter(
    "hookline_changes_coalesced_total", "Changes that were folded into another one of the same record."
)
MISSED = _counter("hookline_missed_total", "Changes that no webhook told and a reconciliation found.", "object")
INSIGHTS = _counter("hookline_insights_total", "Insights, by analysis and outcome: published, provisional (by rules, while the question rests), unchanged, not_enough_data, refused, set_aside, waits (for a provider's batch).", "analysis", "outcome")  # fmt: skip
INSIGHT_SECONDS = _histogram("hookline_insight_seconds", "Time that one analysis took.", "analysis", buckets=_SLOW)
CLAIMS_DROPPED = _counter("hookline_claims_dropped_total", "Claims that cited what is not on the record, and were dropped.", "analysis")  # fmt: skip

# model
MODEL_CALLS = _counter(
    "hookline_model_calls_total", "Questions put to a model, by outcome.", "provider", "model", "outcome"
)
MODEL_SECONDS = _histogram(
    "hookline_model_seconds", "Time that a model took to answer.", "provider", "model", buckets=_SLOW
)
MODEL_TOKENS = _counter(
    "hookline_model_tokens_total", "Tokens, by direction (input, output).", "provider", "model", "direction"
)
# After OpenTelemetry's conventions for generative AI, as its exporter to Prometheus spells them (buckets are the conventions').
# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
_GENAI_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_GENAI_TOKENS = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864)
_GENAI_LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
GENAI_DURATION = _histogram("gen_ai_client_operation_duration_seconds", "OpenTelemetry's gen_ai.client.operation.duration: one attempt at a model; of a stream, until its end.", *_GENAI_LABELS, "error_type", buckets=_GENAI_SECONDS)  # fmt: skip
GENAI_TOKENS = _histogram("gen_ai_client_token_usage", "OpenTelemetry's gen_ai.client.token.usage: tokens of one answer, input and output.", *_GENAI_LABELS, "gen_ai_response_model", "gen_ai_token_type", buckets=_GENAI_TOKENS)  # fmt: skip
GENAI_FIRST_CHUNK = _histogram("gen_ai_client_operation_time_to_first_chunk_seconds", "OpenTelemetry's gen_ai.client.operation.time_to_first_chunk: until a stream's first chunk.", *_GENAI_LABELS, buckets=_GENAI_SECONDS)  # fmt: skip
MODEL_COST = _counter("hookline_model_cost_usd_total", "What the answers cost, in US dollars.", "provider", "model")
MODEL_CACHE = _counter(
    "hookline_model_cache_total", "Questions that the cache answered (hit) or not (miss).", "outcome"
)
MODEL_OUTPUTS = _counter("hookline_model_outputs_total", "Answers of a model, by what they were worth: VALID, or why not (EMPTY, PROSE, TRUNCATED, SCHEMA, REFUSED).", "prompt", "outcome")  # fmt: skip
MODEL_WITHHELD = _counter("hookline_model_withheld_total", "Questions that got no answer, by cause: QuotaSpent, RateLimited, InputRefused, OutputInvalid, or what was unavailable.", "analysis", "cause")  # fmt: skip
MODEL_CASCADES = _counter("hookline_model_cascades_total", "Answers of a model that is not the last of its rule's tiers: accepted, passed_on (not grounded or confident enough), unanswered.", "prompt", "outcome")  # fmt: skip
MODEL_JOINED = _counter("hookline_model_joined_total", "Questions that shared a call with another question about the same record.")  # fmt: skip
MODEL_FALLBACKS = _counter("hookline_model_fallbacks_total", "Questions that went on to the next model of a tier, by who could not answer and why.", "provider", "model", "cause")  # fmt: skip

MODEL_WAITING = _gauge("hookline_model_waiting", "Questions of this process that wait for their turn.")
MODEL_SHARED = _gauge("hookline_model_limits_shared", "1 while limits are shared by all replicas, 0 while Redis is away and a local share holds.")  # fmt: skip
MODEL_QUOTA_WARNINGS = _counter("hookline_model_quota_warnings_total", "Questions that were granted beyond a quota's soft limit, by quota (user, day or month, and what: requests, tokens, dollars).", "quota")  # fmt: skip
MODEL_BREAKER = _gauge("hookline_model_circuit_open", "1 while a model's circuit is open.", "model")
MODEL_SAVED = _counter("hookline_model_saved_usd_total", "US dollars that were not spent, by what saved them: cache, prompt_cache (the provider's), packing, batch.", "by")  # fmt: skip
MODEL_CACHED_TOKENS = _counter("hookline_model_cached_tokens_total", "Input tokens that came from the provider's own prompt cache.", "provider", "model")  # fmt: skip
MODEL_BATCH_QUESTIONS = _gauge("hookline_model_batch_questions", "Questions for a provider's batch, by state: waiting (collected), sent. Told by the process that collects.", "state")  # fmt: skip
MODEL_BATCHES_OPEN = _gauge("hookline_model_batches_open", "Batches that are not over, by state: claimed, uploaded, running (at the provider). Told by the process that collects.", "state")  # fmt: skip
MODEL_BATCHES = _counter("hookline_model_batches_total", "Batches by what became of them: created, and then completed, expired, failed or cancelled (by the provider), gone, refused, overdue, empty (nothing left to ask).", "outcome")  # fmt: skip
MODEL_BATCH_ALONE = _counter("hookline_model_batch_alone_total", "Questions whose batch brought nothing of use and that are asked alone, by why: what became of the batch, ITEM_FAILED, OVERDUE, or what was wrong with the answer (SCHEMA, ...).", "why")  # fmt: skip

# CRM and sinks
CRM_CALLS = _counter("hookline_crm_calls_total", "Calls to a CRM's API, by outcome.", "crm", "operation", "outcome")
CRM_SECONDS = _histogram(
    "hookline_crm_seconds", "Time that a CRM's API took to answer.", "crm", "operation", buckets=_SLOW
)
CRM_TURN_SECONDS = _histogram("hookline_crm_turn_seconds", "Time that a CRM call waited for its account's turn.", "crm", "lane", buckets=_SLOW)  # fmt: skip
CRM_HELD_BACK = _counter("hookline_crm_held_back_total", "CRM calls put off, by why: 429, window (waited too long), day, or day for bulk work.", "crm", "why")  # fmt: skip
CRM_SHARED = _gauge("hookline_crm_limits_shared", "1 while an account's limits are shared by all processes, 0 while Redis is away and a local share holds.", "crm")  # fmt: skip
WRITES = _counter("hookline_writes_total", "What a destination did with an insight: written, stale, unchanged, refused, later.", "destination", "outcome")  # fmt: skip
END_TO_END_SECONDS = _histogram("hookline_end_to_end_seconds", "From the CRM's last-modified time of a record to its insight being written.", "destination", buckets=_SLOW)  # fmt: skip

# what could not go on
DEAD_LETTERS = _counter(
    "hookline_dead_letters_total", "Messages laid aside for good, by stage and cause.", "stage", "cause"
)
SET_ASIDE = _counter("hookline_set_aside_total", "Records set aside until later, by stage and cause.", "stage", "cause")

# Kafka
PUBLISHED = _counter("hookline_kafka_published_total", "Messages that the broker has acknowledged.", "topic")
PUBLISH_SECONDS = _histogram("hookline_kafka_publish_seconds", "Time from handing a batch to Kafka to its acknowledgement.", "topic")  # fmt: skip
PUBLISH_FAILED = _counter("hookline_kafka_publish_failed_total", "Messages that the broker did not acknowledge in time.", "topic")  # fmt: skip
HANDLED = _counter("hookline_pump_handled_total", "Messages that a handler has finished.", "group", "topic")
BATCH_SIZE = _histogram("hookline_pump_batch_messages", "Messages of one call of a handler.", "group", buckets=_SIZES)
HANDLE_SECONDS = _histogram("hookline_pump_handle_seconds", "Time of one call of a handler.", "group", buckets=_SLOW)
HELD_MESSAGES = _gauge("hookline_pump_held_messages", "Messages in memory, waiting or in work.", "group")
HELD_BYTES = _gauge("hookline_pump_held_bytes", "Bytes of messages in memory.", "group")
IN_FLIGHT = _gauge("hookline_pump_in_flight_messages", "Messages in work.", "group")
LAG = _gauge(
    "hookline_pump_lag_messages", "Messages on a partition that are not committed yet.", "group", "topic", "partition"
)
PAUSED = _gauge("hookline_pump_paused", "1 while the consumer pauses because of this part (postgres, redis, model, memory, ...).", "group", "part")  # fmt: skip
COMMITS = _counter("hookline_pump_commits_total", "Commits, by outcome: ok, fenced (another member owns the partitions), failed.", "group", "outcome")  # fmt: skip
REBALANCES = _counter("hookline_pump_rebalances_total", "Times that partitions were taken from this member.", "group")
RETRIES = _counter(
    "hookline_pump_retries_total", "Batches that were tried again because a part was away.", "group", "part"
)
POISON = _counter("hookline_pump_poison_total", "Messages that failed alone and were laid aside.", "group")


def catalogue() -> list[Counter | Gauge | Histogram]:
    """Every metric, in the order of this file."""
    return [each for each in globals().values() if isinstance(each, Counter | Gauge | Histogram)]


def page() -> str:
    """docs/metrics.md; `python -m infra.metrics` prints it."""
    kinds = {"counter": "counter", "gauge": "gauge", "histogram": "histogram"}
    lines = [
        "# Metrics",
        "",
        "Every role serves these in Prometheus' text format at `/metrics` of its health port (`HOOKLINE_OPS_PORT`). This page is made",
        "from the catalogue in `infra/metrics.py`: `.venv/bin/python -m infra.metrics > docs/metrics.md`.",
        "",
        "| name | kind | labels | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for each in catalogue():
        [family] = each.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in each._labelnames) or "–"  # noqa: SLF001 -- the library has no public way to ask
        lines.append(f"| `{name}` | {kinds[family.type]} | {labels} | {family.documentation} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 -- a page for standard output
