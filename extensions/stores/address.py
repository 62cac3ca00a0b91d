"""The offline store's PostgreSQL as a URL."""

from feast import RepoConfig
from sqlalchemy import URL


def url_of(config: RepoConfig) -> str:
    """The offline store's PostgreSQL as a URL that libpq reads."""
    store = config.offline_store
    query = {
        "sslmode": store.sslmode or "prefer",
        "sslkey": store.sslkey_path,
        "sslcert": store.sslcert_path,
        "sslrootcert": store.sslrootcert_path,
        "keepalives_idle": store.keepalives_idle,
    }
    return URL.create(
        "postgresql",
        username=store.user,
        password=store.password,
        host=store.host,
        port=store.port,
        database=store.database,
        query={name: str(value) for name, value in query.items() if value is not None},
    ).render_as_string(hide_password=False)
