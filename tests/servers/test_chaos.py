"""kill -9 of each server, and of the process that loads, at a few moments; `python -m benchmarks.chaos...` does many more."""

from __future__ import annotations

import pytest

from benchmarks.chaos import rounds, servers
from benchmarks.chaos.checks import Wanted
from tests.servers.fixtures import empty_graph

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def _encoder_as_before(monkeypatch):
    """The rounds go without one; the tests after them must not."""
    import atlas.encoder

    monkeypatch.setattr("atlas.encoder.load_encoder", atlas.encoder.load_encoder)


def acknowledged(rows) -> list[int]:
    return [row["acknowledged"] for row in rows]


@pytest.mark.embedded
def test_a_killed_embedded_server_loses_nothing(request, tmp_path):
    settings = empty_graph(request, "embedded", tmp_path)
    rows = rounds.run(settings, servers.kill_embedded(settings), 3, 1, tmp_path)
    assert sum(acknowledged(rows)) > 3


@pytest.mark.neo4j
@pytest.mark.postgres
def test_a_killed_neo4j_loses_nothing(lab_settings, neo4j_server, tmp_path):
    rows = rounds.run(lab_settings, servers.restarted(neo4j_server), 2, 2, tmp_path)
    assert sum(acknowledged(rows)) > 2


@pytest.mark.postgres
@pytest.mark.embedded
def test_a_killed_postgres_loses_nothing(request, postgres_server, postgres_url, tmp_path):
    settings = empty_graph(request, "embedded", tmp_path).model_copy(update={"catalog_url": postgres_url})
    rows = rounds.run(settings, servers.restarted(postgres_server), 3, 3, tmp_path)
    assert sum(acknowledged(rows)) > 3


def test_the_checks_notice_a_lost_write_and_know_an_open_one(tmp_path):
    """What makes the rounds able to fail."""
    wanted, notes = Wanted(), tmp_path / "notes"
    notes.write_text(
        "begin 1 add 3\ndone 1\nbegin 2 label x\nkept 2\nbegin 3 delete 3\nfailed 3 why\nbegin 4 add 5\nbeg"
    )
    wanted.take_in(notes)
    assert wanted.possible == {3: {True, False}}
    assert (wanted.labels, wanted.acknowledged, wanted.unacknowledged) == ({"x"}, 2, 1)
    wanted.take_in(notes, ended=True)
    assert wanted.possible == {3: {True, False}, 5: {True, False}}
    with notes.open("a") as file:
        file.write("begin 5 add 3\ndone 5\n")
    wanted.take_in(notes)
    assert wanted.possible[3] == {True}
