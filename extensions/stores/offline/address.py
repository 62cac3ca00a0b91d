"""The offline store's PostgreSQL as a URL."""

from feast import RepoConfig

from extensions.addresses import postgres_url_of


def url_of(config: RepoConfig) -> str:
    """The offline store's PostgreSQL as a URL that libpq reads."""
    return postgres_url_of(config.offline_store.model_dump())
