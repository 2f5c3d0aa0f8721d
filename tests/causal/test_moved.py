"""Evidence in bundles: it comes with its circuits, counts where it comes to, and is checked as strictly as everything else."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atlas import Atlas
from atlas.backup import backup, restore
from atlas.bundle import export_all, import_bundle
from atlas.errors import AtlasError, InputRejected, StoreUnavailable
from atlas.settings import Settings
from tests.bundle.rewriting import change_line, rewrite
from tests.bundle.test_fuzz import spots
from tests.causal.results import FIRST, SECOND, ablated, cut, scored, verification
from tests.causal.test_kept import CatalogOnly
from tests.conftest import make_circuit


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], Atlas]]:
    """`opened(name)`: an atlas without a graph server, by its name."""
    made: list[Atlas] = []

    def open_one(name: str) -> Atlas:
        settings = Settings(home=tmp_path / name, actor=name, graph_url="bolt://127.0.0.1:9")
        made.append(CatalogOnly.open(settings=settings))
        return made[-1]

    yield open_one
    for atlas in made:
        atlas.close()


@pytest.fixture
def file(opened, tmp_path: Path) -> Path:
    atlas = opened("source")
    atlas.add(scored(make_circuit()))
    atlas.add_interventions([ablated("a-b"), cut("a-b", FIRST, SECOND)], battery="one")
    atlas.add_measurement("a-b", "verification", verification("a-b"))
    export_all(atlas, tmp_path / "all.atlas")
    return tmp_path / "all.atlas"


def said(atlas: Atlas) -> tuple:
    return (
        atlas.interventions("a-b"),
        atlas.edge_marks("a-b"),
        atlas.measurements("a-b"),
        atlas.show("a-b").verdict,
        atlas.show("a-b").evidence,
    )


def test_evidence_comes_with_its_circuit_and_a_second_time_brings_nothing(opened, file) -> None:
    there = opened("there")
    first = import_bundle(there, file).bundles[0]
    assert (first.added["interventions"], first.added["measurements"]) == (2, 1)
    assert said(there) == said(opened("source"))
    assert there.show("a-b").verdict == "crisp"
    again = import_bundle(there, file).bundles[0]
    assert (again.added, again.already["interventions"], again.already["measurements"]) == ({}, 2, 1)


def test_evidence_counts_for_a_circuit_that_is_there_already(opened, file) -> None:
    there = opened("there")
    there.add(scored(make_circuit()))
    there.add_interventions([cut("a-b", FIRST, SECOND, mark="refuted"), ablated("a-b", SECOND, mark="refuted")])
    import_bundle(there, file)
    assert there.edge_marks("a-b")[0].mark == "refuted"  # of here, and newer
    assert (there.show("a-b").evidence.interventions, there.show("a-b").verdict) == (4, "partial")


def test_who_is_no_admin_signs_evidence_of_others_as_imported(opened, file) -> None:
    there = opened("there")
    there.add_person("editor1", role="editor")
    import_bundle(there.acting_as("editor1"), file)
    authors = {row.author for row in (*there.interventions("a-b"), *there.measurements("a-b"))}
    assert authors == {"source (imported by editor1)"}


def test_a_backup_keeps_evidence(opened, tmp_path: Path, file) -> None:
    source = opened("source")
    backup(source, tmp_path / "kept.atlas")
    settings = Settings(home=tmp_path / "again", actor="tester", graph_url="bolt://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match="kept in the catalog"):
        restore(settings, tmp_path / "kept.atlas")
    assert said(opened("again")) == said(source)


def measured(record: dict, value: object) -> None:
    record["document"]["targets"][0]["measured"] = value


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("interventions", lambda r: measured(r, "much"), "measured"),
        ("interventions", lambda r: measured(r, float("nan")), "no finite number at targets.0.measured"),
        ("interventions", lambda r: r["document"].update(mark="certain"), "mark"),
        ("interventions", lambda r: r["document"].update(nodes=[]), "names no node"),
        ("interventions", lambda r: r["document"].update(surprise=1), "surprise"),
        ("interventions", lambda r: r.update(circuit_id="c1-" + "0" * 20), "is not in the file"),
        ("interventions", lambda r: r.update(id="f" * 32), "an id from the future"),
        ("interventions", lambda r: r.update(battery="x" * 3000), "2500 bytes"),
        ("measurements", lambda r: r.update(measurement="opinion"), "measurement"),
        ("measurements", lambda r: r.update(measurement="faithfulness"), "cannot be kept"),
        ("measurements", lambda r: r["document"].update(tested="all"), "tested"),
    ],
)
def test_forged_evidence_is_refused_whole_with_its_line(opened, file, tmp_path, kind, change, sentence) -> None:
    forged = rewrite(
        file, tmp_path / "forged.atlas", lambda manifest, content: change_line(content, kind, change, number=0)
    )
    there = opened("there")
    with pytest.raises(InputRejected, match=sentence) as told:
        import_bundle(there, forged)
    assert f"{kind}" in str(told.value)
    assert "\n" not in str(told.value)
    assert there.circuits() == []


ODD = (None, True, -1, 2**70, 1e308, math.nan, "", "\x00", "../x", "x" * 3000, [], {}, ["feature/9/9/9"], {"a": [None]})


@pytest.mark.parametrize("kind", ["interventions", "measurements"])
def test_a_careful_forgery_is_refused_whole_or_gives_an_atlas_that_answers(opened, file, tmp_path, kind) -> None:
    there, choose, accepted = opened("there"), random.Random(11), 0
    for _ in range(60):

        def forge(record: dict) -> None:
            container, key = choose.choice(spots(record))
            if choose.random() < 0.2:
                del container[key]
            else:
                container[key] = choose.choice(ODD)

        forged = rewrite(
            file, tmp_path / "forged.atlas", lambda _, content, forge=forge: change_line(content, kind, forge)
        )
        refused = None
        try:
            import_bundle(there, forged)
        except AtlasError as error:
            refused = error.message
        if refused is not None:
            assert "\n" not in refused
            assert there.circuits() == []
            continue
        accepted += 1
        said(there)
        there.show("a-b")
        atlas_file = tmp_path / "again.atlas"
        export_all(there, atlas_file)  # what was taken in can be given on
        there.delete("a-b")
        assert import_bundle(there, atlas_file).bundles[0].added["circuits"] == 1
        there.delete("a-b")
    assert 0 < accepted < 60
