"""A Feast configuration's addresses and definitions are those of the repository it was read from.

Feast makes a store's settings when they are first used; by then the configuration knows where its
feature_store.yaml lies (``repo_path``), which may be another folder than the working directory:
``FeatureStore("/srv/shop")``, ``feast --chdir``. Before that, Feast makes them once to validate
the file, when it does not know; an address that cannot be found then is looked for later.
"""

from collections.abc import Callable
from typing import Any

from feast import RepoConfig

from extensions.addresses import REPOSITORY_QUERY, with_repository
from extensions.errors import ConfigurationError
from extensions.repository import STORE_FILE, let_import, working_for


def install() -> None:
    """Let settings of stores and registry be completed with their configuration's repository."""
    for name, complete in (
        ("offline_store", _with_repository),
        ("online_store", _with_repository),
        ("registry", _registry),
    ):
        feasts: Any = RepoConfig.__dict__[name]
        if not getattr(feasts.fget, "ours", False):
            ours: Any = complete(feasts.fget)
            ours.ours = True
            setattr(RepoConfig, name, property(ours))


def found_or_later(find: Callable[[], str]) -> str:
    """What ``find`` returns; empty where it finds nothing, which is an error when it is used."""
    try:
        return find()
    except ConfigurationError:
        return ""


def _with_repository(feasts: Callable[[RepoConfig], Any]) -> Callable[[RepoConfig], Any]:
    def settings(config: RepoConfig) -> Any:
        with working_for(config.repo_path):
            return feasts(config)

    return settings


def _registry(feasts: Callable[[RepoConfig], Any]) -> Callable[[RepoConfig], Any]:
    """Whoever opens the registry gets transforms that import the repository's own modules."""

    def settings(config: RepoConfig) -> Any:
        registry = feasts(config)
        repository = config.repo_path
        if repository is None or not (repository / STORE_FILE).is_file():
            return registry
        let_import(repository)
        plugins = getattr(registry, "sqlalchemy_config_kwargs", {}).get("plugins", ())
        if "skewless" in plugins:
            for name in ("path", "read_path"):
                url = getattr(registry, name)
                if url and REPOSITORY_QUERY not in url:
                    setattr(registry, name, with_repository(url, repository.resolve()))
        return registry

    return settings
