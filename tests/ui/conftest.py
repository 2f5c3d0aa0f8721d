"""One home with circuits, its graph server, the pages over it and a browser, for the whole session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from atlas import Atlas
from atlas.circuit import Circuit
from atlas.graph import embedded
from atlas.records import ActivationExample, Annotations, ImportedLabel, NewLabel
from atlas.settings import Settings
from tests.conftest import make_circuit

HOSTILE = "<img src=x onerror=alert(1)> **bold** :red[x] `code`"
FEATURE = "toy/toy-set/0/6"


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
