"""Notes, e-mails and tasks, and what they are about.

Law: an activity that is logged on a deal, or changed there, counts as a save of the deal, because the deal's insights
rest on it.
"""

from __future__ import annotations

from collections.abc import Iterable

from infra.local.sandbox.objects import (
    ASSOCIATION_TYPES,
    HUBSPOT_ACTIVITIES,
    PRIMARY_TYPES,
    SALESFORCE,
    salesforce_type_of_id,
)
from infra.local.sandbox.state import Account, Actor, Record, Save, Value, World


def link_types(from_kind: str, to_kind: str, *, primary: bool = False) -> tuple[int, ...]:
    """HubSpot's own association type ids for a pair, the primary one first."""
    plain = ASSOCIATION_TYPES.get((from_kind, to_kind), 449)
    first = PRIMARY_TYPES.get((from_kind, to_kind)) if primary else None
    return (first, plain) if first else (plain,)


def associate(
    world: World,
    account: Account,
    one: Record,
    other: Record,
    actor: Actor,
    *,
    quiet: bool = False,
    primary: bool | None = None,
) -> bool:
    """Link two HubSpot records in both directions; False when they were linked already."""
    if other.id in one.links.get(other.type, {}):
        return False
    # The first company of a contact or deal is its primary one, as in HubSpot.
    first = not one.links.get(other.type) if primary is None else primary
    one.links.setdefault(other.type, {})[other.id] = link_types(one.type, other.type, primary=first)
    other.links.setdefault(one.type, {})[one.id] = link_types(other.type, one.type, primary=first)
    if quiet:
        return True
    _told(world, account, one, other, actor, removed=False)
    for activity, subject in ((one, other), (other, one)):
        if activity.type in HUBSPOT_ACTIVITIES and subject.type == "deals":
            world.touch(account, subject, actor, account.canonical(activity.type))
    return True


def dissociate(world: World, account: Account, one: Record, other: Record, actor: Actor) -> bool:
    """Take the link away; False when there was none."""
    if one.links.get(other.type, {}).pop(other.id, None) is None:
        return False
    other.links.get(one.type, {}).pop(one.id, None)
    _told(world, account, one, other, actor, removed=True)
    return True


def _told(world: World, account: Account, one: Record, other: Record, actor: Actor, *, removed: bool) -> None:
    details = {"other": other, "removed": removed}
    save = Save(account, one, "associated", {}, actor, world.clock(), details)
    for listener in world.listeners:
        listener(save)


def log_hubspot(
    world: World,
    account: Account,
    kind: str,
    values: dict[str, Value],
    about: Iterable[Record],
    *,
    actor: Actor,
    quiet: bool = False,
) -> Record:
    """A new note, e-mail or task about records."""
    activity = world.create(account, kind, values, actor, quiet=quiet)
    for subject in about:
        associate(world, account, activity, subject, actor, quiet=quiet)
    return activity


def subjects(account: Account, activity: Record) -> list[Record]:
    """The deals that an activity is about; empty for records that are no activities."""
    if account.vendor == "hubspot":
        if activity.type not in HUBSPOT_ACTIVITIES:
            return []
        return [deal for key in activity.links.get("deals", {}) if (deal := account.find("deals", key))]
    field = SALESFORCE[activity.type].parent
    parent = str(activity.values.get(field) or "") if field else ""
    kind = salesforce_type_of_id(parent)
    deal = account.find("Opportunity", parent) if kind and kind.name == "Opportunity" else None
    return [deal] if deal else []


def touch_subjects(world: World, account: Account, activity: Record, actor: Actor) -> None:
    """An activity was written or changed: its deals count as saved."""
    for deal in subjects(account, activity):
        world.touch(account, deal, actor, account.canonical(activity.type))
