"""A backup put into an empty place gives the same atlas; anything else leaves the place as it was."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select

from atlas import Atlas
from atlas.backup import backup, restore
from atlas.bundle import import_bundle
from atlas.bundle.archive import BundleReader
from atlas.catalog.tables import AccessToken, Base, CircuitEntry, Meta, Person
from atlas.errors import AccessDenied, InputRejected, SchemaMismatch, StoreUnavailable
from atlas.people import sign_in, with_token
from atlas.settings import Settings
from tests.bundle.places import answers, audit, differences, fill_group, plain
from tests.bundle.rewriting import change_line, rewrite
from tests.bundle.test_archive import BACKUP, EXPORT

DOWN = {"graph_url": "bolt://127.0.0.1:9"}  # nobody listens there


def rows(atlas: Atlas) -> dict[str, int]:
    with atlas.catalog.read() as session:
        tables = Base.metadata.tables.values()
        return {table.name: session.scalar(select(func.count()).select_from(table)) for table in tables}


def group_answers(atlas: Atlas) -> dict:
    jobs = [atlas.job(job.id) for job in atlas.jobs()]
    return plain({"people": atlas.people(), "tokens": atlas.tokens(), "jobs": jobs})


def restored_without_graph(settings: Settings, path: Path) -> None:
    """The catalog is filled; the graph server cannot be reached, which is told."""
    with pytest.raises(StoreUnavailable, match="kept in the catalog"):
        restore(settings, path)


@pytest.mark.embedded
def test_a_restored_atlas_gives_every_answer_as_before(source, laptop, tmp_path):
    fill_group(source)
    secret = source.new_token("reader1", "notebook").secret
    before = answers(source) | group_answers(source)
    written = backup(source, tmp_path / "backup.atlas")
    assert written.counts["people"] == 2
    restored = restore(laptop("operator"), tmp_path / "backup.atlas")
    assert restored.counts == written.counts
    place = Settings(home=source.settings.home, catalog_url=source.settings.catalog_url.replace("-0", "-1"))
    with Atlas.open(settings=place, actor="operator") as there:
        assert differences(before, answers(there) | group_answers(there)) == {}
        assert [entry["verb"] for entry in audit(there) if entry["actor"] == "operator"] == ["restore"]
        assert with_token(there, secret).whoami().name == "reader1"
        assert sign_in(there, "editor1", "correct horse battery")[1].role == "editor"


@pytest.mark.neo4j
@pytest.mark.postgres
@pytest.mark.embedded
def test_a_backup_of_a_laptop_restores_on_the_labs_servers(source, lab, tmp_path):
    fill_group(source)
    before = answers(source) | group_answers(source)
    backup(source, tmp_path / "backup.atlas")
    settings = lab("operator")
    restore(settings, tmp_path / "backup.atlas")
    with Atlas.open(settings=settings) as there:
        assert differences(before, answers(there) | group_answers(there)) == {}


@pytest.mark.embedded
def test_the_released_files_fill_an_atlas(laptop):
    restore(laptop("operator"), BACKUP)
    with Atlas.open(settings=laptop("importer")) as atlas:
        result = import_bundle(atlas, EXPORT).bundles[0]
        assert result.added == {
            "models": 2, "transcoder sets": 2, "annotations": 17, "circuits": 4, "node labels": 1, "pins": 3,
            "supernodes": 1, "labels": 7, "collections": 3, "memberships": 4, "concepts": 1, "audit": 35,
        }  # fmt: skip
        assert sorted(row.name for row in atlas.circuits()) == ["Dallas", "Oslo-is", "Paris-is-in", "third"]
        assert atlas.search("capital city")
        assert import_bundle(atlas, BACKUP).bundles[0].left_out == {"people": 2, "jobs": 1, "facts": 1}


# -- the rest needs no graph server


@pytest.fixture
def kept(tmp_path) -> Settings:
    """Settings of an atlas that was restored while its graph server was down."""
    settings = Settings(home=tmp_path / "kept", actor="tester", **DOWN)
    restored_without_graph(settings, BACKUP)
    return settings


def test_the_graph_server_may_be_down_during_a_restore(kept):
    with Atlas.open(settings=kept) as atlas:
        assert len(atlas.circuits()) == 4
        assert atlas.show("Dallas").status == "pending"


def test_only_its_owner_may_read_a_backup(kept, tmp_path):
    path = tmp_path / "backup.atlas"
    path.write_text("an old file that everybody may read")
    path.chmod(0o644)
    with Atlas.open(settings=kept) as atlas:
        backup(atlas, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_backup_holds_neither_sign_ins_nor_the_secret_of_cookies_nor_tokens_themselves(kept, tmp_path):
    from atlas.people import cookie_secret

    with Atlas.open(settings=kept) as atlas:
        token = atlas.new_token("editor1").secret
        session_id, _ = sign_in(atlas, "editor1", "correct horse battery")
        cookie_secret(atlas)
        backup(atlas, tmp_path / "backup.atlas")
    with BundleReader(tmp_path / "backup.atlas", 2**30) as reader:
        content = b"".join(reader.read(name) for name in reader.manifest.members)
    assert b"argon2" in content
    for word in (token.encode(), session_id.encode(), b"cookie_secret", b'"catalog"'):
        assert word not in content


def test_only_an_admin_may_back_up(kept, tmp_path):
    with Atlas.open(settings=kept) as atlas, pytest.raises(AccessDenied):
        backup(atlas.acting_as("editor1"), tmp_path / "backup.atlas")
    assert list(tmp_path.glob("*.atlas*")) == []


def test_a_restore_into_an_atlas_that_is_not_empty_changes_nothing(kept):
    with Atlas.open(settings=kept) as atlas:
        before = rows(atlas)
        with pytest.raises(StoreUnavailable, match=r"is not empty: it has \d+ rows of"):
            restore(kept, BACKUP)
        assert rows(atlas) == before


def test_an_atlas_of_which_only_the_pages_were_opened_counts_as_empty(tmp_path):
    from atlas.people import cookie_secret

    settings = Settings(home=tmp_path / "home", actor="tester", **DOWN)
    with Atlas.open(settings=settings) as atlas:
        secret = cookie_secret(atlas)
        atlas.visited()
    restored_without_graph(settings, BACKUP)
    with Atlas.open(settings=settings) as atlas:
        assert cookie_secret(atlas) == secret


def test_an_export_is_not_restored(tmp_path):
    settings = Settings(home=tmp_path / "home", **DOWN)
    with pytest.raises(InputRejected, match="is an export, not a backup"):
        restore(settings, EXPORT)
    assert not settings.home.exists()


def test_a_backup_that_is_refused_does_not_even_make_the_home(tmp_path):
    settings = Settings(home=tmp_path / "home", **DOWN)
    newer = rewrite(
        BACKUP, tmp_path / "newer.atlas", lambda manifest, content: setattr(manifest, "catalog_schema", "9999")
    )
    cut = tmp_path / "cut.atlas"
    cut.write_bytes(BACKUP.read_bytes()[:-500])
    for path, kind in ((newer, SchemaMismatch), (cut, InputRejected)):
        with pytest.raises(kind):
            restore(settings, path)
    assert not settings.home.exists()


def test_a_backup_whose_records_contradict_each_other_leaves_nothing(tmp_path):
    def same_hash(manifest, content):
        change_line(content, "people", lambda person: person["tokens"].append(person["tokens"][0]))

    settings = Settings(home=tmp_path / "home", **DOWN)
    with pytest.raises(InputRejected, match="contradict each other"):
        restore(settings, rewrite(BACKUP, tmp_path / "twice.atlas", same_hash))
    with Atlas.open(settings=settings) as atlas:
        assert set(rows(atlas).values()) == {0}


def test_a_job_that_was_running_is_queued_again(tmp_path):
    def run(manifest, content):
        running = {
            "state": "running",
            "attempts": 1,
            "done": 3,
            "total": 9,
            "started_at": "2024-01-01T00:00:00.000000+00:00",
        }
        change_line(content, "jobs", lambda job: job.update(running))

    settings = Settings(home=tmp_path / "home", actor="tester", **DOWN)
    restored_without_graph(settings, rewrite(BACKUP, tmp_path / "running.atlas", run))
    with Atlas.open(settings=settings) as atlas:
        job = atlas.jobs()[0]
        assert (job.state, job.worker, job.done, job.started_at, job.attempts) == ("queued", None, 0, None, 1)


def test_a_catalog_that_no_restore_would_take_is_told_when_it_is_backed_up(kept, tmp_path):
    path = tmp_path / "backup.atlas"
    path.write_text("the last good one")
    with Atlas.open(settings=kept) as atlas:
        damaged = atlas.resolve("Dallas")

        def damage(session):
            session.get(CircuitEntry, damaged).blob = b"not what it was"

        atlas.catalog.write("me", damage)
        with pytest.raises(InputRejected, match=f"No backup was written.*{damaged}"):
            backup(atlas, path)
    assert path.read_text() == "the last good one"
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["backup.atlas"]


def test_a_place_that_cannot_be_written_is_told(kept, tmp_path):
    with Atlas.open(settings=kept) as atlas:
        for place in (tmp_path / "no" / "folder" / "x.atlas", tmp_path, Path("/dev/full")):
            with pytest.raises(InputRejected) as error:
                backup(atlas, place)
            assert str(place) in error.value.message
    assert not any(tmp_path.glob(".*.part"))


def test_a_backup_is_of_one_moment_while_others_write(kept, tmp_path, monkeypatch):
    """Every person added has a token; a backup must never hold the one without the other."""
    stop, added = threading.Event(), []

    def keep_writing():
        with Atlas.open(settings=kept) as other:
            while not stop.is_set():
                name = f"writer{len(added)}"

                def both(session, name=name):
                    at = "2024-01-01T00:00:00.000000+00:00"
                    session.add(
                        Person(name=name, folded=name, role="reader", disabled=False, created_at=at, created_by="x")
                    )
                    session.flush()
                    key = f"{len(added):032x}"
                    token = AccessToken(id=key, person=name, name="", hash=key, created_at=at, created_by="x")
                    session.add(token)
                    session.add(Meta(key=f"mark:{name}", value={}))

                other.catalog.write("x", both)
                added.append(name)
                stop.wait(0.005)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        with Atlas.open(settings=kept) as atlas:
            for number in range(5):
                seen = len(added)
                while len(added) == seen:
                    assert writer.is_alive()
                    stop.wait(0.01)
                path = tmp_path / f"{number}.atlas"
                backup(atlas, path)
                with BundleReader(path, 2**30) as reader:
                    people = reader.read("people/000001.jsonl")
                    facts = reader.read("facts/000001.jsonl")
                names = {line for line in people.splitlines() if b'"writer' in line}
                assert names
                assert all(b'"tokens":[{' in line for line in names)
                assert len(names) == facts.count(b"mark:")
    finally:
        stop.set()
        writer.join()


def test_the_umask_holds_for_exports(kept, tmp_path):
    from atlas.bundle import export_all

    old = os.umask(0o027)
    try:
        with Atlas.open(settings=kept) as atlas:
            export_all(atlas, tmp_path / "all.atlas")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "all.atlas").stat().st_mode) == 0o640
