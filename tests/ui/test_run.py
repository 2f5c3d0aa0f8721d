"""Starting the pages: on this machine only, and a taken port is one sentence."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import psutil
import pytest

from atlas.errors import UsageError
from ui.run import launch


def test_a_taken_port_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is taken"):
            launch(port=port, open_browser=False, home=tmp_path / "home")


@pytest.mark.embedded
def test_the_pages_listen_on_this_machine_only(pages: str):
    port = urlsplit(pages).port
    listening = {c.laddr.ip for c in psutil.net_connections("inet") if c.status == "LISTEN" and c.laddr.port == port}
    assert listening == {"127.0.0.1"}
