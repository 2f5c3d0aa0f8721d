"""Start the pages on this machine: a Streamlit server on 127.0.0.1 in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path

import streamlit  # noqa: F401  imported so that a missing extra is noticed here and not in the other process

from atlas.errors import AtlasError, UsageError
from atlas.settings import load_settings
from ui.gate import LOOPBACK

HOST = "127.0.0.1"
EVERYWHERE = {"0.0.0.0", "::"}
USUAL_PORT = 8501
START_SECONDS = 60
_FLAGS = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.enableStaticServing": "false",
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
    "server.maxUploadSize": "64",
    "browser.serverAddress": HOST,
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "logger.level": "warning",
    "theme.light.primaryColor": "#2563c9",  # light and dark apart: one colour for both would fix the light theme
    "theme.dark.primaryColor": "#6ea3f5",
    "theme.baseFontSize": "15",
}


def launch(
    port: int | None = None,
    open_browser: bool = True,
    home: str | Path | None = None,
    *,
    host: str = HOST,
    accounts: bool | None = None,
    https: bool | None = None,
) -> tuple[subprocess.Popen[bytes], str]:
    """Start the pages and wait until they answer: (process, address). The caller ends the process.

    `port` None takes 8501 when free, else any free one. `host`: where to listen. `accounts`: ask for a sign-in, `https`: a
    proxy in front speaks it; None = as the settings say. The server writes its log to `ui.log` in the atlas home, with
    accounts to stderr. Raises
    UsageError when the port is taken, or when pages without accounts were to listen for other machines, and AtlasError when
    the server does not come up.
    """
    settings = load_settings(**({"home": Path(home)} if home else {}))
    environment = {**os.environ, "ATLAS_HOME": str(settings.home)}
    if accounts is not None:
        environment["ATLAS_ACCOUNTS"] = str(accounts)
    if https is not None:
        environment["ATLAS_HTTPS"] = str(https)
    if host not in LOOPBACK and not (settings.accounts if accounts is None else accounts):
        raise UsageError(
            "Pages without accounts listen on this machine only.", "`atlas serve` offers them to people with accounts."
        )
    settings.home.mkdir(parents=True, exist_ok=True)
    port = _port(host, port)
    log = settings.home / "ui.log"
    flags = [
        f"--{name}={value}" for name, value in {**_FLAGS, "server.address": host, "server.port": str(port)}.items()
    ]
    command = [sys.executable, "-m", "streamlit", "run", str(files("ui") / "asgi.py"), *flags]
    with nullcontext(2) if accounts else log.open("ab") as output:  # a service's log is its stderr
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment, cwd=Path.cwd()
        )
    reached = HOST if host in EVERYWHERE else host
    url = f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"
    deadline = time.monotonic() + START_SECONDS
    try:
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                said = "what it wrote above" if accounts else f"the end of {log}"
                raise AtlasError(f"The pages did not start on port {port}.", f"Read {said}.")
            time.sleep(0.1)
        if open_browser:
            webbrowser.open(url)
    except BaseException:  # also an interrupt: nobody else knows of the process yet
        end(process)
        raise
    return process, url


def end(process: subprocess.Popen[bytes]) -> None:
    """End the pages, if need be by force: the port is free afterwards."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _port(host: str, wanted: int | None) -> int:
    for candidate in [wanted] if wanted else [USUAL_PORT, 0]:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UsageError(f"The port {wanted} is taken or not allowed.", "Choose another with --port.")


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False
