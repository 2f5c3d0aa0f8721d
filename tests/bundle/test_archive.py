"""The file: what is refused before anything of it is believed. None of these starts a graph server."""

from __future__ import annotations

import json
import struct
import sys
import zipfile
from pathlib import Path

import pytest

from atlas.bundle import lines
from atlas.bundle.archive import MANIFEST, BundleReader
from atlas.bundle.check import check_whole
from atlas.catalog.tables import Base
from atlas.errors import InputRejected, SchemaMismatch
from tests.bundle.rewriting import change_line, members, rewrite

DATA = Path(__file__).resolve().parents[1] / "data"
EXPORT, BACKUP = DATA / "export-v1.atlas", DATA / "backup-v1.atlas"


def check(path: Path, max_bytes: int = sys.maxsize) -> None:
    with BundleReader(path, max_bytes) as reader:
        check_whole(reader, lambda done, total, what: None)


def refusal(path: Path, kind: type[Exception] = InputRejected, max_bytes: int = sys.maxsize) -> str:
    with pytest.raises(kind) as error:
        check(path, max_bytes)
    assert error.value.message.endswith(".")
    assert error.value.hint
    return error.value.message


def copied(source: Path, target: Path, extra: dict[str, bytes]) -> Path:
    """The members of a bundle and others, by zipfile alone."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for name, data in extra.items():
            new.writestr(name, data)
    return target


@pytest.mark.parametrize("path", [EXPORT, BACKUP], ids=lambda path: path.stem)
def test_a_file_of_the_released_version_is_read(path):
    check(path)


# Columns that no bundle holds, each made anew where it is read.
MADE_ANEW = {
    "models": {"id"},
    "model_versions": {"model_id", "weights_hash"},  # the hash is there, as `hash`
    "model_aliases": {"model_id", "alias"},
    "transcoder_sets": {"id", "model_id"},
    "transcoder_set_versions": {"set_id"},
    "transcoder_set_aliases": {"model_id", "alias", "set_id"},
    "circuits": {
        "blob", "schema_version", "trace_key", "prompt_key", "replicate_group", "counted_group", "model_id", "set_id",
        "method", "weight_unit", "name", "prompt", "search_text", "nodes", "edges", "scores",
    },
    "labels": {"rank"},
    "node_labels": {"circuit_id"},
    "supernodes": {"circuit_id"},
    "pins": {"circuit_id"},
    "collection_circuits": {"collection", "circuit_id"},
    "annotations": {"kind"},  # there as `annotation`
    "interventions": {"kind", "nodes", "mark", "predicted", "measured"},  # in the document
    "measurements": {"kind"},  # there as `measurement`
    "people": {"folded"},
    "access_tokens": {"person"},
    "jobs": {"kind", "worker"},
    "catalog_meta": {"key"},
}  # fmt: skip
NOT_KEPT = {"occurrences", "projection_outbox", "sign_ins", "workers"}
LINE_OF = {
    "models": lines.ModelLine, "model_versions": lines.Version, "transcoder_sets": lines.TranscoderSet,
    "transcoder_set_versions": lines.Version, "circuits": lines.CircuitLine, "labels": lines.LabelLine,
    "node_labels": lines.NodeLabelPart, "supernodes": lines.SupernodePart, "pins": lines.PinPart,
    "collections": lines.CollectionLine, "collection_circuits": lines.MemberPart, "concepts": lines.ConceptLine,
    "audit": lines.AuditLine, "annotations": lines.AnnotationLine, "people": lines.PersonLine,
    "interventions": lines.InterventionLine, "measurements": lines.MeasurementLine,
    "access_tokens": lines.TokenPart, "jobs": lines.JobLine, "catalog_meta": lines.FactLine,
}  # fmt: skip


def test_every_column_of_the_catalog_is_in_a_bundle_or_made_anew() -> None:
    """A new table or column needs a decision here, and one in `atlas.bundle`."""
    for name, table in Base.metadata.tables.items():
        if name not in NOT_KEPT:
            line = LINE_OF.get(name)
            held = set(line.model_fields) if line else set()
            missing = {column.name for column in table.columns} - held - MADE_ANEW.get(name, set())
            assert not missing, f"{name}: {missing}"


def test_a_file_that_was_cut_off_names_the_member_where_it_ends(tmp_path):
    whole = EXPORT.read_bytes()
    cut = tmp_path / "cut.atlas"
    with zipfile.ZipFile(EXPORT) as file:
        inside = file.getinfo("labels/000001.jsonl").header_offset + 200
    cut.write_bytes(whole[:inside])
    assert refusal(cut).endswith(f"is cut off after {inside} bytes, in or after the member labels/000001.jsonl.")
    for length in range(0, len(whole), 997):
        cut.write_bytes(whole[:length])
        refusal(cut)


def test_a_damaged_member_is_named(tmp_path):
    content = bytearray(EXPORT.read_bytes())
    with zipfile.ZipFile(EXPORT) as file:
        content[file.getinfo("labels/000001.jsonl").header_offset + 200] ^= 0xFF
    broken = tmp_path / "broken.atlas"
    broken.write_bytes(content)
    assert refusal(broken) == f"{broken} is damaged: labels/000001.jsonl cannot be read."


def test_a_member_with_another_content_than_the_manifest_lists_is_named(tmp_path):
    forged = tmp_path / "forged.atlas"
    with zipfile.ZipFile(EXPORT) as old, zipfile.ZipFile(forged, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data.replace(b"Texas", b"Kansas"[:5]) if name.startswith("concepts") else data)
    assert "concepts/000001.jsonl is not what the manifest lists" in refusal(forged)


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/passwd", "circuits/../x.safetensors", "C:\\x", "circuits/c1-zz.safetensors", "x.pkl", "a/b/"],
)
def test_a_member_that_no_bundle_has_is_refused(name, tmp_path):
    assert "which is no part of a bundle" in refusal(copied(EXPORT, tmp_path / "path.atlas", {name: b"x"}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(tmp_path):
    twice = copied(EXPORT, tmp_path / "twice.atlas", {"labels/000001.jsonl": b"{}"})
    assert "the member labels/000001.jsonl is in it twice" in refusal(twice)


def test_a_member_that_the_manifest_does_not_list_or_that_is_missing_is_refused(tmp_path):
    more = copied(EXPORT, tmp_path / "more.atlas", {"labels/000002.jsonl": b""})
    assert "labels/000002.jsonl is not listed" in refusal(more)
    less = tmp_path / "less.atlas"
    with zipfile.ZipFile(EXPORT) as old, zipfile.ZipFile(less, "w") as new:
        for name in old.namelist()[1:]:
            new.writestr(name, old.read(name))
    assert "'models/000001.jsonl' is missing" in refusal(less)


def test_a_member_larger_than_the_limit_is_refused_unread():
    assert "more than the 1000 allowed" in refusal(EXPORT, max_bytes=1000)


def test_a_file_that_unpacks_to_hundreds_of_times_its_size_is_refused(tmp_path):
    bomb = copied(EXPORT, tmp_path / "bomb.atlas", {"labels/000002.jsonl": b"0" * (64 * 2**20)})
    assert bomb.stat().st_size < 200_000
    assert "more than 200 times its size" in refusal(bomb)


def test_a_member_that_unpacks_to_more_than_it_says_is_read_no_further_than_it_says(tmp_path):
    import tracemalloc

    bomb = copied(EXPORT, tmp_path / "bomb.atlas", {"labels/000002.jsonl": b"0" * (64 * 2**20)})
    content = bomb.read_bytes()
    # the directory says 10 bytes instead
    bomb.write_bytes(content.replace(struct.pack("<L", 64 * 2**20), struct.pack("<L", 10)))
    tracemalloc.start()
    refusal(bomb)
    assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    tracemalloc.stop()


def test_a_list_of_members_of_absurd_length_is_refused_unread(tmp_path):
    content = bytearray(EXPORT.read_bytes())
    place = content.rfind(b"PK\x05\x06")
    content[place + 12 : place + 16] = struct.pack("<L", 2**31)
    absurd = tmp_path / "absurd.atlas"
    absurd.write_bytes(content)
    assert "a list of members of 2147483648 bytes" in refusal(absurd)


@pytest.mark.parametrize("content", [b"", b"PK", b'{"nodes": []}', b"PK\x03\x04" + b"\x00" * 40, b"\x00" * 5000])
def test_what_is_no_bundle_is_refused(content, tmp_path):
    path = tmp_path / "other.atlas"
    path.write_bytes(content)
    refusal(path)


def test_a_zip_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "other.atlas"
    with zipfile.ZipFile(path, "w"):
        pass
    assert f"a zip file without a {MANIFEST}" in refusal(path)


def test_a_file_of_a_newer_format_is_told_by_its_version_whatever_else_it_holds(tmp_path):
    newer = tmp_path / "newer.atlas"
    with zipfile.ZipFile(newer, "w") as file:
        file.writestr(MANIFEST, json.dumps({"format": "circuit-atlas", "version": 2, "something": "new"}))
    assert "written by a newer version of this program (file format 2;" in refusal(newer, SchemaMismatch)


def test_a_file_of_a_newer_catalog_is_told_as_such(tmp_path):
    def change(manifest, content):
        manifest.catalog_schema = "9999"

    newer = rewrite(BACKUP, tmp_path / "newer.atlas", change)
    assert "written by a newer version of this program (catalog schema 9999" in refusal(newer, SchemaMismatch)


def test_what_cannot_be_opened_is_told(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.atlas")
    assert "is a directory" in refusal(tmp_path)


LATER = "ffffffffffffffff0000000000000000"


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("labels", {"id": LATER}, "an id from the future"),
        ("labels", {"created_at": "9998-01-01T00:00:00.000000+00:00"}, "a time in the future"),
        ("labels", {"created_at": "2024-01-01T00:00:00.000000+05:00"}, "created_at"),
        ("labels", {"created_at": "2024-13-41T00:00:00.000000+00:00"}, "created_at"),
        ("labels", {"feature": "no key"}, "no feature key"),
        ("labels", {"text": "a\x00b"}, "NUL"),
        ("labels", {"score": "high"}, "score"),
        ("labels", {"embedding": 5}, "embedding"),
        ("labels", {"surprise": 1}, "surprise"),
        ("labels", {"examples": [{"tokens": "x", "activations": []}]}, "examples"),
        ("annotations", {"action": "explode"}, "action"),
        ("annotations", {"annotation": "spell"}, "annotation"),
        ("concepts", {"name": " blanks "}, "blanks around"),
        ("concepts", {"name": "x" * 3000}, "2500 bytes"),
        ("concepts", {"features": []}, "features"),
        ("models", {"name": "/home/me/model"}, "folder"),
        ("models", {"layers": 2**40}, "layers"),
        ("circuits", {"counted": "yes"}, "counted"),
        ("circuits", {"id": "../../x"}, "id"),
        ("circuits", {"id": "c1-" + "0" * 20}, "c1-00000000000000000000 has no file or no record"),
    ],
)
def test_a_record_with_right_hashes_and_wrong_content_is_refused_with_its_line(kind, change, said, tmp_path):
    forged = rewrite(
        EXPORT,
        tmp_path / "forged.atlas",
        lambda manifest, content: change_line(content, kind, lambda r: r.update(change)),
    )
    assert said in refusal(forged)


def test_a_circuit_file_under_the_id_of_another_is_refused(tmp_path):
    def swap(manifest, content):
        one, two = sorted(name for name in content if name.startswith("circuits/c1"))[:2]
        content[one], content[two] = content[two], content[one]

    assert "holds the circuit c1-" in refusal(rewrite(EXPORT, tmp_path / "swapped.atlas", swap))


def test_records_out_of_order_or_twice_are_refused(tmp_path):
    def repeat(manifest, content):
        content["labels/000001.jsonl"] *= 2

    assert "is out of order or there twice" in refusal(rewrite(EXPORT, tmp_path / "twice.atlas", repeat))


def test_a_count_that_is_wrong_is_refused(tmp_path):
    def drop(manifest, content):
        del content["annotations/000001.jsonl"]

    assert "0 records of the kind annotations" in refusal(rewrite(EXPORT, tmp_path / "fewer.atlas", drop))


def test_accounts_in_an_export_are_refused(tmp_path):
    def smuggle(manifest, content):
        content["people/000001.jsonl"] = members(BACKUP)[1]["people/000001.jsonl"]

    assert "the kind 'people', which no export has" in refusal(rewrite(EXPORT, tmp_path / "people.atlas", smuggle))


def test_a_backup_may_hold_a_time_that_a_wrong_clock_made(tmp_path):
    def later(manifest, content):
        change_line(content, "models", lambda record: record.update(created_at="2098-01-01T00:00:00.000000+00:00"))

    check(rewrite(BACKUP, tmp_path / "later.atlas", later))
