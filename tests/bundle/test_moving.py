"""An atlas moved to another place gives the same answers there."""

from __future__ import annotations

import zipfile

import pytest

from atlas import Atlas
from atlas.bundle import export_all, import_bundle
from tests.bundle.conftest import cleared
from tests.bundle.places import OF_THE_MOVE, answers, audit, differences, fill, fill_group

pytestmark = pytest.mark.embedded


def test_a_moved_atlas_gives_every_answer_as_before(source, laptop, tmp_path):
    before, said = answers(source), audit(source)
    written = export_all(source, tmp_path / "all.atlas")
    with Atlas.open(settings=laptop("importer")) as there:
        result = import_bundle(there, tmp_path / "all.atlas").bundles[0]
        after = answers(there)
        heard = audit(there)
    assert result.added["circuits"] == written.counts["circuits"] == 4
    assert (result.conflicts, result.already, result.left_out, result.signed) == ([], {}, {}, "")
    # the audit log tells who imported, and marks what was imported
    imported = [entry for entry in heard if entry["detail"].pop("imported_by", None) == "importer"]
    assert imported == said
    assert {entry["actor"] for entry in heard if entry not in imported} == {"importer"}
    del before["audit"], after["audit"]
    assert differences(before, after) == {}
    assert any(entry["holds"] is False for entry in after["history"])


def test_a_second_import_brings_nothing_new(source, laptop, tmp_path):
    export_all(source, tmp_path / "all.atlas")
    with Atlas.open(settings=laptop("importer")) as there:
        first = import_bundle(there, tmp_path / "all.atlas").bundles[0]
        once, said = answers(there), audit(there)
        second = import_bundle(there, tmp_path / "all.atlas")
        assert second.bundles[0].added == {}
        assert second.bundles[0].already == first.added
        assert all(item.already for item in second.loaded)
        assert differences(once, answers(there)) == {}
        assert audit(there) == said


@pytest.mark.neo4j
@pytest.mark.postgres
def test_from_a_laptop_to_the_labs_servers_and_back(source, laptop, lab, tmp_path):
    before = answers(source)
    export_all(source, tmp_path / "to-lab.atlas")
    with Atlas.open(settings=lab()) as there:
        import_bundle(there, tmp_path / "to-lab.atlas")
        in_lab = answers(there)
        assert import_bundle(there, tmp_path / "to-lab.atlas").bundles[0].added == {}
        export_all(there, tmp_path / "back.atlas")
    with Atlas.open(settings=laptop()) as back:
        import_bundle(back, tmp_path / "back.atlas")
        after = answers(back)
    for moved in (before, in_lab, after):
        del moved["audit"]
    assert differences(before, in_lab) == {}
    assert differences(before, after) == {}


def test_an_export_has_neither_accounts_nor_secrets_nor_jobs(source, tmp_path):
    fill_group(source)
    token = source.new_token("editor1", "second").secret
    export_all(source, tmp_path / "all.atlas")
    with zipfile.ZipFile(tmp_path / "all.atlas") as file:
        names = {name.partition("/")[0] for name in file.namelist()}
        content = b"".join(file.read(name) for name in file.namelist())
    assert names == {
        "manifest.json", "models", "circuits", "interventions", "measurements", "labels", "collections", "concepts",
        "annotations", "audit",
    }  # fmt: skip
    for word in (b"editor1", b"example.org", b"argon2", token.encode(), b"reader1"):
        assert word not in content, word


def test_circuits_and_labels_of_both_places_are_there_after_a_merge(source, laptop, tmp_path, make_circuit):
    export_all(source, tmp_path / "all.atlas")
    with Atlas.open(settings=laptop("labperson")) as lab:
        lab.add(make_circuit("Dallas is"))  # the same circuit, without what the laptop said about it
        own = lab.add(make_circuit("only here")).circuit
        lab.define_concept("Texas", ["toy/toy-set/0/6"])
        lab.annotate("Dallas-is", "name", "the lab's own name")
        result = import_bundle(lab, tmp_path / "all.atlas")
        detail = lab.show(result.loaded[0].circuit)
        bundle = result.bundles[0]
        assert bundle.already["circuits"] == 1
        assert bundle.conflicts == [
            "The concept 'Texas' has other features here (1, in the file 2) and stays as it is."
        ]
        assert lab.concepts()[0].features == ["toy/toy-set/0/6"]
        dallas = next(item.circuit for item in result.loaded if item.already)
        detail = lab.show(dallas)
        assert detail.created_by == "labperson"
        assert detail.collections == ["capitals"]
        assert {group.name for group in detail.supernodes} == {"Texas", "both hops"}
        # names are merged by when they were said: the lab's is the newer one
        assert detail.name == "the lab's own name"
        assert own in {row.id for row in lab.circuits()}


def test_a_name_that_is_newer_in_the_file_names_the_circuit(laptop, tmp_path, make_circuit):
    with Atlas.open(settings=laptop("labperson")) as lab:
        circuit = lab.add(make_circuit("Dallas is")).circuit
        lab.annotate(circuit, "name", "older")
        place = lab.settings
    with Atlas.open(settings=laptop()) as here:
        fill(here)
        export_all(here, tmp_path / "all.atlas")
    with Atlas.open(settings=cleared(place)) as lab:
        lab.rebuild()
        import_bundle(lab, tmp_path / "all.atlas")
        assert lab.show(circuit).name == "Dallas"
        assert lab.cypher("MATCH (c:Circuit {id: $id}) RETURN c.name", {"id": circuit}).rows == [["Dallas"]]


def test_who_is_no_admin_cannot_sign_as_somebody_else(source, laptop, tmp_path):
    export_all(source, tmp_path / "all.atlas")
    with Atlas.open(settings=laptop("boss")) as lab:
        lab.add_person("editor1", role="editor")
        lab.add_person("tester", role="admin")  # whose name the records of the laptop bear
        result = import_bundle(lab.acting_as("editor1"), tmp_path / "all.atlas").bundles[0]
        assert result.signed == "NAME (imported by editor1)"
        assert result.left_out == {"audit": result.left_out["audit"]}
        marked = "tester (imported by editor1)"
        assert {entry.author for entry in lab.annotations(history=True)} == {marked}
        assert {lab.show(row.id).created_by for row in lab.circuits()} == {marked}
        assert {version.author for version in lab.feature("toy/toy-set/0/6").labels} == {marked}
        assert {concept.author for concept in lab.concepts()} == {marked}
        assert {entry["actor"] for entry in audit(lab) if entry["verb"] not in OF_THE_MOVE} <= {"boss", "editor1"}
        again = import_bundle(lab.acting_as("editor1"), tmp_path / "all.atlas").bundles[0]
        assert again.added == {}


def test_own_records_keep_the_own_name(source, laptop, tmp_path):
    export_all(source, tmp_path / "all.atlas")
    with Atlas.open(settings=laptop("boss")) as lab:
        lab.add_person("tester", role="editor")
        import_bundle(lab.acting_as("tester"), tmp_path / "all.atlas")
        assert {entry.author for entry in lab.annotations(history=True)} == {"tester"}


def test_a_reader_cannot_import(source, laptop, tmp_path):
    from atlas.errors import AccessDenied

    export_all(source, tmp_path / "all.atlas")
    with Atlas.open(settings=laptop("boss")) as lab:
        lab.add_person("reader1")
        with pytest.raises(AccessDenied):
            import_bundle(lab.acting_as("reader1"), tmp_path / "all.atlas")
        assert lab.circuits() == []
