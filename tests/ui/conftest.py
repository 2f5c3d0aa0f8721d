"""One home with circuits, its graph server and the pages over it, for the whole session, and a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from atlas import Atlas
from atlas.circuit import Circuit
from atlas.edges import REST, STRAIGHT
from atlas.graph import embedded
from atlas.records import ActivationExample, Annotations, ImportedLabel, NewLabel
from atlas.settings import Settings
from tests.conftest import make_circuit

HOSTILE = "<img src=x onerror=alert(1)> **bold** :red[x] `code`"
FEATURE = "toy/toy-set/0/6"
PARTS = {  # of the edge between the two features: straight, head 2 of layer 1 from position 0, head 0 from 1, the rest
    "heads.edge": np.full(4, 1, np.uint32),
    "heads.layer": np.array([-1, 1, 1, -1], np.int16),
    "heads.head": np.array([STRAIGHT, 2, 0, REST], np.int16),
    "heads.source_position": np.array([1, 0, 1, -1], np.int32),
    "heads.weight": np.array([0.25, 1.5, -0.5, -0.25], np.float32),
}
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT = 60_000  # ms; the machine may be busy


@dataclass
class Filled:
    """A home and what is in it: `city` and `capital` can be compared, `hostile` has markup in every text."""

    home: Path
    capital: Circuit
    city: Circuit
    hostile: Circuit


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    home = tmp_path_factory.mktemp("ui") / "home"
    settings = Settings(home=home, actor="tester", embedded_heap="512m", embedded_idle_seconds=900)
    made = Filled(
        home,
        capital=make_circuit("the capital"),
        city=make_circuit("the city", weights=(0.4, 1.0, 1.5), features=(6, 9)),
        hostile=make_circuit("a <img/src=x/onerror=alert(1)>", features=(6, 13)),
    )
    for circuit in (made.city, made.hostile):
        circuit.extra.update(PARTS)
    try:
        with Atlas.open(settings=settings) as atlas:
            for circuit in (made.hostile, made.city, made.capital):
                notes = Annotations()
                if circuit is made.hostile:
                    notes = Annotations(
                        labels=[ImportedLabel(node_key=circuit.keys[2], text=HOSTILE)], pins=[circuit.keys[3]]
                    )
                atlas.add(circuit, annotations=notes, collection="samples")
            atlas.put_labels([capital_label()])
        yield made
    finally:
        embedded.stop(home)
        shutil.rmtree(home, ignore_errors=True)


def capital_label() -> NewLabel:
    return NewLabel(
        feature=FEATURE,
        text="capital cities",
        method="tokens",
        score=0.91,
        random_score=0.52,
        examples=[ActivationExample(tokens=["in", " Paris", HOSTILE], activations=[0.0, 3.5, 1.0])],
        promoted=[" Paris"],
        suppressed=[" river"],
    )


@pytest.fixture(scope="session")
def pages(filled: Filled) -> Iterator[str]:
    """Address of the pages over the filled home."""
    from ui.run import launch

    saved = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("ATLAS_")}
    try:
        process, url = launch(port=None, open_browser=False, home=filled.home)
    finally:
        os.environ.update(saved)
    yield url
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="module")  # while it is open an event loop runs in this thread, and other tests want their own
def browser():
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        message = "Chromium is not installed; set CHROMIUM to its program"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    from playwright import sync_api as playwright_api

    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, pages: str) -> Iterator:
    """A fresh page that must end without a console error, a dialog or a request to another host."""
    from playwright.sync_api import expect

    context = browser.new_context(viewport={"width": 1400, "height": 1000}, base_url=pages)
    context.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    page = context.new_page()
    trouble: list[str] = []
    host = urlsplit(pages).netloc
    # Streamlit looks for its server below the page's own address first, and the browser logs that this is not there
    page.on(
        "console",
        lambda m: (
            trouble.append(f"console: {m.text} {m.location}")
            if m.type == "error" and "/_stcore/" not in m.location.get("url", "")
            else None
        ),
    )
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    for event in ("request", "websocket"):
        page.on(
            event,
            lambda r: (
                trouble.append(f"off-site: {r.url}")
                if urlsplit(r.url).scheme in {"http", "https", "ws", "wss"} and urlsplit(r.url).netloc != host
                else None
            ),
        )
    yield page
    context.close()
    assert not trouble
