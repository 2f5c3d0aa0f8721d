"""The Postgres of the tests itself: closed to others, durable, and able to come back from a kill."""

from __future__ import annotations

import psycopg
import pytest

pytestmark = pytest.mark.postgres


def test_the_server_keeps_what_was_committed_through_kill_9(postgres_server, postgres_url):
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        connection.execute("CREATE TABLE kept (x int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    half = psycopg.connect(postgres_url)
    half.execute("INSERT INTO kept VALUES (2)")
    postgres_server.kill()
    postgres_server.start()
    half.close()
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT x FROM kept").fetchall() == [(1,)]


def test_the_server_listens_on_loopback_and_wants_the_password(postgres_server):
    with psycopg.connect(postgres_server.url()) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        assert connection.execute("SHOW unix_socket_directories").fetchone() == ("",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres_server.url(password="wrong"))
