"""Finding plug-ins: each module of a package that ends in one typed constant named PLUGIN.

Law: knows no kind of plug-in; a new one is one new file, and nothing else changes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection
from typing import TypeVar

from infra.settings import SettingsError

T = TypeVar("T")


def load(package: str, protocol: type[T], enabled: Collection[str] | None = None) -> dict[str, T]:
    """The plug-ins of `package` by name, in alphabetical order, or only the enabled ones, in the order given.

    A module without PLUGIN (the protocol's own, say) is none. Raises SettingsError for an enabled name that nobody has,
    naming those that exist, and TypeError for two of one name or a PLUGIN that lacks what `protocol` asks for.
    """
    root = importlib.import_module(package)
    found: dict[str, T] = {}
    for module in sorted(pkgutil.iter_modules(root.__path__), key=lambda each: each.name):
        plugin = getattr(importlib.import_module(f"{package}.{module.name}"), "PLUGIN", None)
        if plugin is None:
            continue
        lacking = sorted(name for name in _members(protocol) if not hasattr(plugin, name))
        if lacking:
            raise TypeError(f"{package}.{module.name}.PLUGIN is no {protocol.__name__}: it lacks {', '.join(lacking)}")
        name = str(plugin.name)
        if name in found:
            raise TypeError(f"{package}: two plug-ins are named {name!r}")
        found[name] = plugin
    if enabled is None:
        return dict(sorted(found.items()))
    unknown = [name for name in enabled if name not in found]
    if unknown:
        raise SettingsError(
            f"{package} has no {', '.join(map(repr, unknown))}: it has {', '.join(sorted(found)) or 'nothing'}"
        )
    return {name: found[name] for name in enabled}


def _members(protocol: type) -> set[str]:
    members: set[str] = set()
    for each in protocol.__mro__:
        if each is not object and each.__name__ not in {"Protocol", "Generic"}:
            members.update(getattr(each, "__annotations__", {}))
            members.update(name for name in vars(each) if not name.startswith("_"))
    return {name for name in members | {"name"} if not name.startswith("_")}
