"""The memory that a process may still take, within its control groups of either version."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from ingest import memory

GIB = 2**30


def group(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")


def second(limit: object, used_gib: float = 0, files_gib: float = 0) -> dict[str, object]:
    stat = f"anon 1\ninactive_file {int(files_gib * GIB)}"
    return {"memory.max": limit, "memory.current": int(used_gib * GIB), "memory.stat": stat}


def first(limit: object, used_gib: float = 0, files_gib: float = 0) -> dict[str, object]:
    stat = f"inactive_file 5\ntotal_inactive_file {int(files_gib * GIB)}"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": int(used_gib * GIB), "memory.stat": stat}


@pytest.fixture
def groups(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 100 * GIB}))
    return tmp_path / "groups"


def own(groups: Path, *lines: str) -> None:
    (groups.parent / "own").write_text("\n".join(lines) + "\n")


def test_without_groups_it_is_what_the_machine_has(groups):
    assert memory.available() == 100 * GIB


def test_the_second_version_counts_what_files_give_up(groups):
    own(groups, "0::/a/b")
    group(groups / "a/b", second(8 * GIB, used_gib=5, files_gib=2))
    assert memory.available() == 5 * GIB


def test_the_least_of_a_group_and_those_above_it_counts(groups):
    own(groups, "0::/a/b")
    group(groups / "a/b", second("max"))
    group(groups / "a", second(4 * GIB, used_gib=1))
    group(groups, second(50 * GIB))
    assert memory.available() == 3 * GIB


def test_the_first_version_has_a_place_and_names_of_its_own(groups):
    own(groups, "5:cpu:/x", "4:memory:/a", "0::/")
    group(groups / "memory/a", first(6 * GIB, used_gib=3, files_gib=1))
    group(groups / "memory", first(2**63 - 4096))
    assert memory.available() == 4 * GIB


def test_in_a_container_the_path_outside_is_not_there_but_the_limit_is(groups):
    own(groups, "4:memory:/machine/outside")
    group(groups / "memory", first(2 * GIB))
    assert memory.available() == 2 * GIB


def test_more_used_than_allowed_leaves_nothing(groups):
    own(groups, "0::/")
    group(groups, second(2 * GIB, used_gib=3))
    assert memory.available() == 0
