"""`atlas doctor` on the machine: loose modes, left-over notes of the embedded server, a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from atlas import Atlas
from atlas.diagnosis import examine, machine
from atlas.graph import embedded, owner
from atlas.settings import Settings

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")


def test_files_with_passwords_are_closed_to_others(settings: Settings, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings.embedded_folder.mkdir(parents=True)
    note = settings.embedded_folder / "server.json"
    note.write_text("{}")
    note.chmod(0o640)
    harmless, secret = settings.home / "atlas.toml", tmp_path / "atlas.toml"
    harmless.write_text('encoder = "all-MiniLM-L6-v2"')
    secret.write_text('graph_password = "hunter2"')
    for file in (harmless, secret):
        file.chmod(0o644)
    found = machine.secret_files(settings, mend=False)
    assert not found.ok
    assert str(note) in found.found
    assert "chmod 600" in found.hint
    assert str(harmless) not in found.found
    assert "hunter2" not in str(found)
    assert secret.stat().st_mode & 0o777 == 0o644
    assert machine.secret_files(settings, mend=True).mended
    assert [file.stat().st_mode & 0o777 for file in (note, secret, harmless)] == [0o600, 0o600, 0o644]
    assert not machine.secret_files(settings, mend=True).mended


def test_a_catalog_with_accounts_is_closed_to_others(settings: Settings) -> None:
    with Atlas.open(settings=settings) as atlas:
        atlas.catalog.file.chmod(0o644)
        assert machine.catalog_file(atlas, mend=False).found == "", "without accounts it holds no secrets"
        atlas.add_person("reader1")
        assert not machine.catalog_file(atlas, mend=False).ok
        assert machine.catalog_file(atlas, mend=True).mended
        assert atlas.catalog.file.stat().st_mode & 0o777 == 0o600


@pytest.mark.embedded
@pytest.mark.parametrize(("victims", "kind"), [(("owner", "java"), "stale"), (("owner",), "orphan")])
def test_what_a_killed_embedded_server_left_behind_is_cleared(tmp_path: Path, victims, kind) -> None:
    settings = Settings(home=tmp_path / "home", embedded_heap="256m")
    embedded.start(settings)
    assert machine.embedded_record(settings, mend=True).found == "runs"
    state = embedded._state(settings.embedded_folder)
    java = psutil.Process(state["java"]["pid"])
    try:
        for victim in victims:
            os.kill(state[victim]["pid"], signal.SIGKILL)
        assert all(embedded._ended(state[victim], 10) for victim in victims), "a killed process may take a while to end"
        assert embedded.leftover(settings.home) == kind
        assert not machine.embedded_record(settings, mend=False).ok
        assert machine.embedded_record(settings, mend=True).mended
        assert embedded.leftover(settings.home) == "none"
        assert owner.same_process(state["java"]) is None
    finally:
        if java.is_running():
            java.kill()
        embedded.stop(settings.home)


@pytest.mark.skipif(os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="mounting needs root on Linux")
def test_a_disk_that_is_almost_full_is_told(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        found = machine.disk(Settings(home=small / "home"))
    finally:
        subprocess.run(["umount", small], check=True)
    assert not found.ok
    assert "0.0 GiB free" in found.found


def test_a_home_that_is_a_file_is_one_finding(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    faults = [check for check in examine(Settings(home=tmp_path / "home")) if not check.ok]
    assert [check.name for check in faults] == ["catalog"]
    assert "Set ATLAS_HOME" in faults[0].hint
