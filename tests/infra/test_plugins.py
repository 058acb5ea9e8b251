from __future__ import annotations

import sys
import textwrap
from typing import Protocol

import pytest

from infra import plugins
from infra.settings import SettingsError


class Shape(Protocol):
    name: str

    def area(self) -> int: ...


@pytest.fixture
def package(tmp_path, monkeypatch):
    def make(**modules: str) -> str:
        name = f"shapes_{tmp_path.name.replace('-', '_')}"
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        for module, source in modules.items():
            (folder / f"{module}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(tmp_path))
        return name

    yield make
    for name in [name for name in sys.modules if name.startswith("shapes_")]:
        del sys.modules[name]


SQUARE = """
class Square:
    name = "square"
    def area(self): return 4
PLUGIN = Square()
"""
CIRCLE = SQUARE.replace("square", "circle")


def test_a_new_file_is_found_and_the_protocols_own_module_is_none(package) -> None:
    found = plugins.load(package(shape="LIMIT = 1", square=SQUARE, circle=CIRCLE), Shape)
    assert list(found) == ["circle", "square"]
    assert found["square"].area() == 4


def test_settings_name_what_is_enabled_in_their_order(package) -> None:
    name = package(square=SQUARE, circle=CIRCLE)
    assert list(plugins.load(name, Shape, ["square"])) == ["square"]
    assert list(plugins.load(name, Shape, ["square", "circle"])) == ["square", "circle"]


def test_an_unknown_name_is_refused_with_those_that_exist(package) -> None:
    with pytest.raises(SettingsError, match=r"no 'triangle': it has circle, square"):
        plugins.load(package(square=SQUARE, circle=CIRCLE), Shape, ["triangle"])


def test_two_of_one_name_are_refused(package) -> None:
    with pytest.raises(TypeError, match="two plug-ins are named 'square'"):
        plugins.load(package(square=SQUARE, again=SQUARE), Shape)


def test_one_that_lacks_a_member_is_refused_by_name(package) -> None:
    with pytest.raises(TypeError, match="lacks area"):
        plugins.load(package(square=SQUARE.replace("area", "volume")), Shape)
