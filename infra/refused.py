"""Which setting to mend where PostgreSQL or Redis is there and refuses us: TLS and passwords, for people.

Law: an answer names settings and what to do; it repeats nothing that a server or a URL says, for that may hold passwords.
None: nothing of the kind, the server is away. What Kafka refuses is asked of it anew: `infra.kafka.connection.refusal`.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import redis.exceptions

from infra.settings import variable

# libpq tells these apart by text alone: https://www.postgresql.org/docs/current/libpq-ssl.html, fe-secure-openssl.c
_POSTGRES = (
    ("root certificate file", "`sslrootcert` in {url} names no file that can be read: mend the path"),
    (
        "certificate verify failed",
        "PostgreSQL's certificate is not trusted: set `sslrootcert` in {url} to the PEM file of the authority that signed it",
    ),
    (
        "server certificate for",
        "PostgreSQL's certificate is not made for the host in {url}: use a name that the certificate has",
    ),
    (
        "does not support SSL",
        "PostgreSQL's server has TLS off: turn it on there (`ssl=on`), or take `sslmode` out of {url}",
    ),
    ("password authentication failed", "PostgreSQL refuses user and password: mend them in {url}"),
    (
        "no pg_hba.conf entry",
        "PostgreSQL's pg_hba.conf lets this user not in from here: mend it, or `sslmode` in {url}",
    ),
)


def postgres(error: BaseException) -> str | None:
    """Of an error of psycopg's, or SQLAlchemy's around it."""
    told = " ".join(str(each) for each in _chain(error))
    return next((advice.format(url=variable("database_url")) for sign, advice in _POSTGRES if sign in told), None)


def redis_client(error: BaseException) -> str | None:
    """Of an error of redis-py's, or of opening a connection to Redis at all."""
    url = variable("redis_url")
    for each in _chain(error):
        match each:
            case ssl.SSLCertVerificationError() if "mismatch" in each.verify_message:
                return f"Redis' certificate is not made for the host in {url}: use a name that the certificate has"
            case ssl.SSLCertVerificationError():
                return (
                    f"Redis' certificate is not trusted: add `?ssl_ca_certs=FILE` to {url}, the PEM file of the authority "
                    "that signed it"
                )
            case ssl.SSLError():
                return f"no TLS with Redis ({each.reason}): check the port and `rediss://` in {url}, and the files it names"
            case FileNotFoundError() | PermissionError():
                return f"a file that {url} names cannot be read: mend the path"
            case redis.exceptions.AuthenticationError():
                return redis_password()
    return None


def redis_password() -> str:
    """Redis answered that it does not know us."""
    return f"Redis refuses user and password: mend them in {variable('redis_url')}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
