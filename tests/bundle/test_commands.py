"""`atlas export --all`, `import`, `backup` and `restore` as a user types them."""

from __future__ import annotations

import json

import pytest

from tests.bundle.test_archive import BACKUP, EXPORT
from tests.cli.conftest import atlas_command  # noqa: F401
from tests.conftest import make_circuit


@pytest.fixture
def no_graph(monkeypatch):
    monkeypatch.setenv("ATLAS_GRAPH_URL", "bolt://127.0.0.1:9")  # nobody listens there


@pytest.mark.embedded
def test_the_whole_way_on_the_command_line(atlas_command, embedded_home, laptop, tmp_path, monkeypatch):  # noqa: F811
    from atlas.circuit_file import to_bytes

    monkeypatch.setenv("ATLAS_HOME", str(embedded_home))
    monkeypatch.setenv("ATLAS_CATALOG_URL", laptop().catalog_url)
    (tmp_path / "one.safetensors").write_bytes(to_bytes(make_circuit("Rome is")))
    (tmp_path / "cut.atlas").write_bytes(EXPORT.read_bytes()[:-30])
    brought = atlas_command(
        "import", EXPORT, tmp_path / "one.safetensors", tmp_path / "cut.atlas", "--in", "all", "--json"
    )
    assert brought.code == 1
    assert len(brought.json["loaded"]) == 5
    assert [item["path"] for item in brought.json["rejected"]] == [str(tmp_path / "cut.atlas")]
    assert brought.json["bundles"][0]["added"]["circuits"] == 4
    assert len(atlas_command("circuits", "--in", "all", "--json").json) == 5

    exported = atlas_command("export", "--all", "-o", "all.atlas", "--json").json
    assert exported["counts"]["circuits"] == 5
    kept = atlas_command("backup", "-o", "kept.atlas", "--json").json
    assert kept["bytes"] == (tmp_path / "kept.atlas").stat().st_size
    full = atlas_command("restore", "kept.atlas")
    assert full.code == 1
    assert "is not empty" in full.err

    monkeypatch.setenv("ATLAS_CATALOG_URL", laptop().catalog_url)
    back = atlas_command("restore", "kept.atlas", "--json")
    assert back.code == 0, back.err
    assert back.json["counts"] == kept["counts"]
    again = atlas_command("import", "all.atlas")
    assert again.code == 0
    assert "0 loaded, 5 already in the atlas, 0 rejected" in again.out
    assert "nothing new" in again.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "--all"], "No file is named"),
        (["export", "x", "--all", "-o", "f.atlas"], "--all writes everything"),
        (["export", "--all", "--format", "circuit", "-o", "f.atlas"], "--all writes everything"),
        (["export", "--all", "-o", "f.zip"], "has not the ending .atlas"),
        (["export", "-o", "f"], "No circuit is named"),
        (["export", "x", "-o", "f"], "No file format is named"),
        (["backup"], "-o"),
        (["restore"], "FILE"),
    ],
)
def test_wrong_use_is_told(atlas_command, arguments, said):  # noqa: F811
    result = atlas_command(*arguments, "--json")
    assert result.code == 2
    assert said in json.loads(result.out)["error"]["message"]


def test_a_file_that_cannot_be_used_is_one_sentence(atlas_command, no_graph, tmp_path):  # noqa: F811
    missing = atlas_command("restore", "absent.atlas", "--json")
    assert (missing.code, missing.json["error"]["type"]) == (1, "InputRejected")
    export = atlas_command("restore", EXPORT)
    assert export.code == 1
    assert "is an export, not a backup" in export.err
    listed = atlas_command("import", "absent.atlas", "--json")
    assert listed.code == 1
    assert "absent.atlas cannot be read: no such file" in listed.json["rejected"][0]["reason"]


def test_a_backup_is_said_to_be_kept_when_the_graph_server_is_down(atlas_command, no_graph):  # noqa: F811
    result = atlas_command("restore", BACKUP)
    assert result.code == 1
    assert "kept in the catalog" in result.err
    assert len(atlas_command("circuits", "--json").json) == 4
