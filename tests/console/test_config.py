"""`hookline config` shows every setting and no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from console.config import app, as_markdown, masked, source_of
from infra.settings import ROLES, Settings, SettingsError, problems, require, variable

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (SecretStr("gsk_topsecret"), "***"),
        (
            SecretStr("postgresql://app:hunter2@db.example:5432/hookline?sslmode=require"),
            "postgresql://***@db.example:5432/hookline",
        ),
        (SecretStr("redis://127.0.0.1:6379/0"), "redis://127.0.0.1:6379/0"),
        (None, "-"),
        (("a", "b"), "a, b"),
    ],
)
def test_a_secret_is_masked_and_a_url_keeps_its_host(value, shown):
    assert masked(value) == shown


def test_no_secret_of_the_environment_is_printed(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:hunter2@db.example/x")
    monkeypatch.setenv("GROQ_API_KEY", "gsk_topsecret")
    monkeypatch.setenv("HOOKLINE_MASTER_KEYS", "bWFzdGVyLWtleQ==")
    printed = CliRunner().invoke(app, [], env={"COLUMNS": "240"}, catch_exceptions=False).stdout
    assert "db.example" in printed
    assert not any(secret in printed for secret in ("hunter2", "gsk_topsecret", "bWFzdGVyLWtleQ"))


def test_the_source_of_a_value_is_named(monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1/0")
    settings = Settings(_env_file=None)
    assert source_of(settings, "redis_url") == "environment"
    assert source_of(settings, "model") == "default"


def test_the_page_in_docs_is_what_the_settings_say():
    assert (DOCS / "settings.md").read_text() == as_markdown(), (
        "run: .venv/bin/hookline config --markdown > docs/settings.md"
    )


@pytest.mark.parametrize("role", ROLES)
def test_a_role_refuses_to_boot_incomplete_and_names_every_variable(role):
    with pytest.raises(SettingsError) as refused:
        require(Settings(_env_file=None), role)
    for name in ("KAFKA_URL", "DATABASE_URL", "HOOKLINE_MASTER_KEYS"):
        assert name in str(refused.value)


def test_production_refuses_the_sandbox():
    settings = Settings(sandbox_url="http://127.0.0.1:1", _env_file=None)
    assert any("sandbox" in line and "production" in line for line in problems(settings, ()))
    assert not problems(settings.model_copy(update={"environment": "development"}), ())


def test_groq_without_a_key_is_refused():
    assert any("GROQ_API_KEY" in line for line in problems(Settings(provider="groq", _env_file=None), ()))


def test_lists_are_given_comma_separated(monkeypatch):
    monkeypatch.setenv("HOOKLINE_ANALYSES", "lead_intel, data_quality")
    assert Settings(_env_file=None).analyses == ("lead_intel", "data_quality")


def test_every_setting_has_a_meaning():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
    assert variable("kafka_url") == "KAFKA_URL"
