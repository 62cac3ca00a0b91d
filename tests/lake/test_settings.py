"""The section `lake` of feature_store.yaml: what is wrong is one sentence."""

import sys
from datetime import timedelta
from pathlib import Path

import pytest

from extensions.addresses import HOME_VARIABLE
from extensions.errors import ConfigurationError
from extensions.lake.catalog import open_catalog
from extensions.lake.settings import KEEP_SNAPSHOTS, LakeSettings, read_settings


def repository(folder: Path, section: str) -> Path:
    (folder / "feature_store.yaml").write_text(f"project: p\n{section}\n")
    return folder


def test_without_a_section_it_is_a_folder_and_not_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / ".skewless"))
    found = read_settings(repository(tmp_path, ""))
    assert found == LakeSettings(f"file://{tmp_path.resolve()}/.skewless/lake")
    assert not found.configured
    assert read_settings(repository(tmp_path, "lake:")).configured


def test_what_a_section_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "mine")
    found = read_settings(
        repository(
            tmp_path,
            "lake:\n  warehouse: s3://${BUCKET}/lake/\n  properties: {s3.region: eu-1}\n"
            "  keep_snapshots: 2 days",
        )
    )
    assert found == LakeSettings(
        "s3://mine/lake", {"s3.region": "eu-1"}, timedelta(days=2), configured=True
    )
    relative = read_settings(repository(tmp_path, "lake: {warehouse: files}"))
    assert relative.warehouse == f"file://{tmp_path.resolve()}/files"
    assert relative.keep_snapshots == KEEP_SNAPSHOTS
    assert relative.hot_window("any_view") is None


def test_hot_windows_by_view_or_for_all_others(tmp_path: Path) -> None:
    found = read_settings(
        repository(tmp_path, "lake: {hot: {default: 30 days, item_stats: 12 hours}}")
    )
    assert found.hot_window("item_stats") == timedelta(hours=12)
    assert found.hot_window("user_habits") == timedelta(days=30)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("lake: here", "is 'here': write settings below it"),
        ("lake: {warehous: x}", "has no setting 'warehous'.*Did you mean warehouse"),
        ("lake: {cold: 7 days}", "has no setting 'cold': it knows warehouse"),
        ("lake: {hot: 7 days}", "has the hot windows '7 days': name views, or default, as in"),
        ("lake: {hot: {default: 7}}", "keeps default hot for 7: write a time as '30 days'"),
        ("lake: {warehouse: 'ftp://x/y'}", "names the warehouse 'ftp://x/y': a folder, or a URL"),
        ("lake: {properties: [a]}", "has properties that are no mapping"),
        ("lake: {keep_snapshots: soon}", "keeps snapshots for 'soon': write a time as '7 days'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, section: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as raised:
        read_settings(repository(tmp_path, section))
    assert raised.value.message.startswith("The section `lake` of feature_store.yaml ")


def test_without_the_extra_a_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiceberg.catalog.sql", None)
    with (
        pytest.raises(ConfigurationError, match=r"install `skewless\[lake\]`"),
        open_catalog("postgresql://nowhere", "p", LakeSettings("file:///tmp/lake")),
    ):
        pass
