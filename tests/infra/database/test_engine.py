import pytest

from infra.database.engine import build_engine, database_url
from infra.settings import Settings, SettingsError


def settings(url: str | None) -> Settings:
    return Settings(_env_file=None, database_url=url)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_the_driver_is_our_business(scheme):
    assert (
        database_url(settings(f"{scheme}://u:p@db:5433/x")).render_as_string(hide_password=False)
        == "postgresql+psycopg://u:p@db:5433/x"
    )


def test_tls_parameters_reach_the_driver():
    """INVARIANT: what an operator asks of TLS is kept. If it fails, connections are silently unverified."""
    url = database_url(
        settings("postgresql://u:p@db/x?sslmode=verify-full&sslrootcert=/ca.pem&target_session_attrs=read-write")
    )
    assert dict(url.query) == {"sslmode": "verify-full", "sslrootcert": "/ca.pem", "target_session_attrs": "read-write"}


@pytest.mark.parametrize(
    "url", ["mysql://root:hunter2@db/x", "postgresql+asyncpg://u:hunter2@db/x", "hunter2", "://hunter2"]
)
def test_a_wrong_url_is_refused_without_being_repeated(url):
    with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
        database_url(settings(url))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_url_says_how_to_give_it():
    with pytest.raises(SettingsError, match="postgresql://user:password@host"):
        database_url(settings(None))


async def test_building_connects_to_nothing():
    engine = build_engine(settings("postgresql://u:hunter2@127.0.0.1:1/x"))
    assert "hunter2" not in repr(engine)
    await engine.dispose()
