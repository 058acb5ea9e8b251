"""`python -m tests.faults`: the campaign. See `docs/guarantees.md`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from pydantic import TypeAdapter

from tests.faults import kafka_faults, kills, messages, network, others, replays, report, stores
from tests.faults.campaign import Pace, Round, run_all
from tests.faults.fault import Fault
from tests.faults.stand import open_stand
from tests.faults.without import UNPROTECTED, Unprotected

FAULTS: dict[str, type[Fault]] = {
    **kills.FAULTS,
    **kafka_faults.FAULTS,
    **stores.FAULTS,
    **others.FAULTS,
    **network.FAULTS,
    **messages.FAULTS,
    **replays.FAULTS,
}


_ROUND = TypeAdapter(Round)


def tell(line: str) -> None:
    """To the terminal, at once."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def chosen(names: str) -> list[type[Fault]]:
    """Faults by name, comma-separated; all where nothing is said, and none for `none`."""
    if not names:
        return list(FAULTS.values())
    if names == "none":
        return []
    unknown = [name for name in names.split(",") if name not in FAULTS]
    if unknown:
        raise SystemExit(f"no fault {', '.join(unknown)}; there are: {', '.join(FAULTS)}")
    return [FAULTS[name] for name in names.split(",")]


def kept(path: Path | None) -> list[Round]:
    """The rounds of an earlier run that was cut off, failed ones too: delete a line to run that round again."""
    if path is None or not path.exists():
        return []
    return [_ROUND.validate_json(line) for line in path.read_bytes().splitlines()]


def _ended(_number: int, _frame: FrameType | None) -> None:
    tell("ended by SIGTERM")
    raise SystemExit(143)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seeds", default="1,2,3", help="comma-separated")
    parser.add_argument("--only", default="", help="names of faults, comma-separated; `none`: only what --without says")
    parser.add_argument("--rate", type=float, default=200.0, help="saves a second")
    parser.add_argument("--without", default="", help="protections to switch off one after the other; `all`")
    parser.add_argument("--short", action="store_true", help="short faults")
    parser.add_argument("--data", type=Path, help="where the stand lives; a temporary folder otherwise")
    parser.add_argument("--write", type=Path, help="the page whose tables are brought up to date")
    parser.add_argument(
        "--rounds", type=Path, help="where rounds are kept, as JSON Lines; those in it are not run again"
    )
    parser.add_argument("--list", action="store_true", help="name the faults")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    if given.list:
        sys.stdout.write("".join(f"{name}: {kind.said}\n" for name, kind in FAULTS.items()))
        return 0
    wanted = chosen(given.only)
    lacking = {each.name: why for each in wanted if (why := each.lacks())}
    for name, why in lacking.items():
        tell(f"{name} not run: {why}")
    without = [each for each in UNPROTECTED if given.without == "all" or each.protection in given.without.split(",")]
    rounds = _run(given, [each for each in wanted if each.name not in lacking], without)
    failed = _conclude(rounds, lacking)
    # Who names a fault wants it run.
    return 1 if failed or (given.only and lacking) else 0


def _run(given: argparse.Namespace, faults: list[type[Fault]], without: list[Unprotected]) -> list[Round]:
    """What is not in the file of rounds yet; all rounds, those of the file first."""
    nodes = 3
    pace = Pace(rate=given.rate, long=not given.short, hurry=given.short)
    rounds = kept(given.rounds)
    known = {(each.seed, each.fault) for each in rounds if not each.without}
    shown = {each.without for each in rounds}
    before = report.read(given.write) if given.write else report.Page()

    def write() -> None:
        if given.write:
            report.write(given.write, FAULTS, rounds, pace, nodes, before)

    def done(found: Round) -> None:
        rounds.append(found)
        if given.rounds:
            with given.rounds.open("ab") as file:
                file.write(_ROUND.dump_json(found) + b"\n")
        write()

    write()
    seeds = [int(each) for each in given.seeds.split(",")]
    for seed in seeds:
        due = [each for each in faults if (seed, each.name) not in known]
        last = [each for each in without if each.protection not in shown] if seed == seeds[-1] else []
        if not due and not last:
            continue
        # What clients say while their server is away is what this is about.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        signal.signal(signal.SIGTERM, _ended)
        folder = given.data or Path(tempfile.mkdtemp(prefix="hookline-faults-"))
        shutil.rmtree(folder, ignore_errors=True)
        try:
            with open_stand(folder, seed=seed, nodes=nodes) as stand:
                tell(f"seed {seed}: {len(due)} faults, {nodes} brokers, {given.rate:g} saves/s")
                asyncio.run(run_all(stand, due, seed, pace, tell, last, done=done))
        finally:
            if given.data is None:
                shutil.rmtree(folder, ignore_errors=True)
    return rounds


def _conclude(rounds: Sequence[Round], lacking: Mapping[str, str]) -> bool:
    """Say what failed and what was not run, and the result in one line; whether anything failed."""
    failed = [each for each in rounds if each.passed is bool(each.without)]
    for each in failed:
        what = (
            f"without {each.without}: nothing found"
            if each.without
            else f"repeat it with: make faults SEED={each.seed} ONLY={each.fault}"
        )
        sys.stdout.write(f"failed: {each.fault}, seed {each.seed}; {what}\n")
    for name, why in lacking.items():
        sys.stdout.write(f"not run: {name}; {why}\n")
    sys.stdout.write(json.dumps(report.result(rounds)) + "\n")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
