"""`hookline prompt`: the prompts that are in use, and what one of them makes of a record.

Law: a trial asks the model that it names, outside of caches, quotas and accounts, and changes nothing anywhere: no insight is
published. It spends money of the key that settings name, and says how much. A cassette holds what was asked and answered in
the clear: record on made-up records.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from console.insights import text_of
from console.reading import Selection, read_range
from console.runtime import ConsoleError, local_settings, need, out, read_settings, registry, run
from infra.kafka.codec import Codec, Received
from infra.plugins import load
from infra.settings import Settings
from llm_gateway import routing
from llm_gateway.direct import Direct
from llm_gateway.models import estimated_tokens
from llm_gateway.prompt import GatewayError
from llm_gateway.providers.cassette import Cassette, CassetteError
from llm_gateway.render import PromptFile, PromptFileError
from llm_gateway.render import load as load_prompt
from processors.analyses.analysis import Analysis, Context, Finding
from processors.grounding import Grounded, ground
from processors.replay.candidate import Candidate, CandidateError
from schemas.insight import Insight, Version
from schemas.record import RecordRef, RecordSnapshot
from schemas.topics import RECORDS

app = typer.Typer(help="The prompts in use, and what one makes of a record.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """Every prompt of the analyses that settings name."""
    found = [
        {
            "name": file.name,
            "version": file.version,
            "instruction_tokens": estimated_tokens(file.system),
            "max_output_tokens": file.max_output_tokens,
            "temperature": file.temperature,
            "pack": file.pack,
            "cache_ttl_seconds": file.cache_ttl_seconds,
            "file": str(path),
        }
        for path, file in _files(_analyses(read_settings()))
    ]
    if as_json:
        typer.echo(json.dumps({"prompts": found}))
        return
    table = Table("prompt", "version", "instructions, about", "longest answer", "at most in one call", "file")
    for each in found:
        table.add_row(
            str(each["name"]), str(each["version"]), f"{each['instruction_tokens']} tokens",
            f"{each['max_output_tokens']} tokens", str(each["pack"]), str(each["file"]),
        )  # fmt: skip
    out.print(table)


@app.command("test")
def try_(
    name: Annotated[str, typer.Argument(help="As `hookline prompt list` shows it.")],
    record: Annotated[str, typer.Argument(help="A JSON file of a snapshot, or tenant/account/object/id.")],
    *,
    prompt: Annotated[Path | None, typer.Option(help="Another prompt file instead of the one in use.")] = None,
    model: Annotated[str, typer.Option(help="Another model than HOOKLINE_MODEL.")] = "",
    cassette: Annotated[Path | None, typer.Option(help="Take answers from this file.")] = None,
    record_: Annotated[bool, typer.Option("--record", help="Ask what the cassette lacks, and keep it there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a prompt about a record: the answer, what was dropped from it, tokens and cost. Nothing is published."""
    if record_ and cassette is None:
        raise ConsoleError("--record keeps answers in a cassette: give --cassette FILE as well")
    settings = read_settings()
    if model:
        settings = settings.model_copy(update={"model": model})
    try:
        analysis = Candidate.read(name, prompt, "", "").analyses(_installed(settings, name))[name]
    except CandidateError as error:
        raise ConsoleError(str(error)) from error
    snapshot = _snapshot(record)
    if snapshot.object not in analysis.objects:
        raise ConsoleError(f"{name} reads {', '.join(sorted(analysis.objects))}, and this is a {snapshot.object}")

    async def command() -> dict[str, Any]:
        with _route(settings, cassette, record=record_) as route:
            direct = Direct(route, timeout=settings.model_timeout_seconds)
            try:
                return await _tried(analysis, snapshot, direct)
            finally:
                await direct.close()

    try:
        found = run(command)
    except GatewayError as error:
        raise ConsoleError(str(error)) from error
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        _show(found)


async def _tried(analysis: Analysis, snapshot: RecordSnapshot, direct: Direct) -> dict[str, Any]:
    today = snapshot.modified_at.date()
    finding = await analysis.analyse(Context(snapshot, None, direct.ask, (), today))
    grounded = ground(finding.payload, snapshot)
    return {
        "prompt": analysis.name,
        "version": analysis.version,
        "record": "/".join(snapshot.ref),
        "model": finding.model,
        "calls": direct.calls,
        "input_tokens": finding.usage.input_tokens,
        "output_tokens": finding.usage.output_tokens,
        "cost_usd": finding.usage.cost_usd,
        "dropped": list(grounded.dropped),
        "payload": grounded.payload.model_dump(mode="json"),
        "text": text_of(_insight(analysis, snapshot, finding, grounded)),
    }


def _insight(analysis: Analysis, snapshot: RecordSnapshot, finding: Finding, grounded: Grounded) -> Insight:
    return Insight(
        tenant=snapshot.tenant,
        account=snapshot.account,
        object=snapshot.object,
        id=snapshot.id,
        crm=snapshot.crm,
        analysis=analysis.name,
        version=Version(0, 0, 0),
        as_of=snapshot.modified_at,
        analyzed_at=datetime.now(UTC),
        model=finding.model,
        payload=grounded.payload,
    )


def _show(found: dict[str, Any]) -> None:
    title = f"{found['prompt']} · version {found['version']} · {found['model']}"
    out.print(Panel(Text(found["text"]), title=title, title_align="left"))
    out.print(
        f"{found['input_tokens']} tokens in, {found['output_tokens']} out, ${found['cost_usd']:.6f}, "
        f"{found['calls']} call{'s' * (found['calls'] != 1)}; {len(found['dropped'])} claims dropped"
    )
    for line in found["dropped"]:
        out.print(Text(f"  dropped: {line}"))


def _installed(settings: Settings, name: str) -> dict[str, Analysis]:
    found = _analyses(settings)
    asking = sorted(file.name for _, file in _files(found))
    if name not in asking:
        raise ConsoleError(f"there is no prompt {name!r}: there are {', '.join(asking)}")
    return found


def _analyses(settings: Settings) -> dict[str, Analysis]:
    return load("processors.analyses", Analysis, settings.analyses)  # type: ignore[type-abstract]  # the protocol is only asked for its members


def _files(analyses: Mapping[str, Analysis]) -> Iterator[tuple[Path, PromptFile]]:
    """The prompt files beside the analyses; one that asks no model has none."""
    for analysis in analyses.values():
        path = Path(inspect.getfile(type(analysis))).with_name("prompt.md")
        if path.exists():
            try:
                yield path, load_prompt(path)
            except PromptFileError as error:
                raise ConsoleError(str(error)) from error


@contextmanager
def _route(settings: Settings, cassette: Path | None, *, record: bool) -> Iterator[routing.Route]:
    if cassette is None:
        yield routing.route(settings)
        return
    try:
        if not record:
            if not cassette.exists():
                raise ConsoleError(f"{cassette} is not there: add --record to make it")
            offline = routing.chosen(settings) == "offline"
            tape = Cassette(cassette, name="offline" if offline else "groq")
            yield routing.Route(tape, "offline-rules" if offline else settings.model)
            return
        inner = routing.route(settings)
        tape = Cassette(cassette, inner.provider)
    except CassetteError as error:
        raise ConsoleError(str(error)) from error
    yield routing.Route(tape, inner.model)
    tape.save()


def _snapshot(given: str) -> RecordSnapshot:
    path = Path(given)
    if path.is_file():
        try:
            return RecordSnapshot.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ConsoleError(f"{path} is no snapshot: {where}: {first['msg']}") from None
    try:
        ref = RecordRef.parse(given)
    except ValueError as error:
        raise ConsoleError(f"{given} is no file, and no record: {error}") from error
    return run(lambda: _newest(ref))


async def _newest(ref: RecordRef) -> RecordSnapshot:
    """The newest snapshot of a record that `crm.records` holds; reads the topic."""
    need(local_settings(), "kafka_url", "database_url", "master_keys")
    newest: Received[RecordSnapshot] | None = None
    async with registry() as (_, settings, _engine, keyring):
        codec = Codec(keyring, "hookline/console")
        # All snapshots of a record lie in one partition, in order.
        async for found in read_range(settings, codec, RECORDS, selection=Selection(record=ref)):
            if isinstance(found, Received):
                newest = found
    if newest is None:
        raise ConsoleError(f"{RECORDS.name} holds no snapshot of {'/'.join(ref)}: see `hookline insight show`")
    return newest.payload
