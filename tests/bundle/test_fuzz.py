"""Whatever is in a file that calls itself a bundle: it is refused with one sentence and nothing is written, or it is one."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas import Atlas
from atlas.bundle import import_bundle
from atlas.errors import AtlasError, StoreUnavailable
from atlas.settings import Settings
from tests.bundle.places import plain
from tests.bundle.rewriting import members, rewrite
from tests.bundle.test_archive import EXPORT
from tests.bundle.test_backup import DOWN, rows

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)


@pytest.fixture(scope="module")
def places() -> Iterator[Path]:
    """A folder with two catalogs: `empty`, and `known`, which has all of the file."""
    folder = Path(tempfile.mkdtemp(prefix="atlas-fuzz-"))
    for name in ("empty", "known"):
        with Atlas.open(settings=place(folder / name)) as atlas:
            if name == "known":
                with pytest.raises(StoreUnavailable, match="kept in the catalog"):
                    import_bundle(atlas, EXPORT)
    yield folder
    shutil.rmtree(folder)


def place(folder: Path) -> Settings:
    return Settings(home=folder, actor="tester", **DOWN)


def catalog_answers(atlas: Atlas) -> dict:
    """What the catalog alone answers; a record that it chokes on would show here."""
    ids = [row.id for row in atlas.circuits(limit=None)]
    return plain(
        {
            "circuits": [(atlas.show(id), atlas.node_labels(id)) for id in ids],
            "annotations": atlas.annotations(history=True, limit=None),
            "now": atlas.annotations(limit=None),
            "collections": atlas.collections(),
            "concepts": atlas.concepts(),
            "features": atlas.features_without_label(),
            "overview": atlas.overview().models,
        }
    )


@settings(RELAXED, max_examples=60)
@given(data=st.data())
def test_changed_bytes_are_refused_or_change_nothing(places, tmp_path, data):
    content = bytearray(EXPORT.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "set", "cut", "insert", "move"])):
            case "flip":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "set":
                content[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 200))]
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=50))
            case "move":
                to = data.draw(st.integers(0, len(content) - 1))
                content[to : to + 40] = content[at : at + 40]
    path = tmp_path / "fuzzed.atlas"
    path.write_bytes(content)
    refused = {name: attempt(places / name, path) for name in ("known", "empty")}
    if refused["known"] is None:  # what was changed was no content: a time in the zip, say
        assert "kept in the catalog" in str(refused.pop("empty"))  # all there, and no graph server to be told
        with (
            Atlas.open(settings=place(places / "known")) as known,
            Atlas.open(settings=place(places / "empty")) as other,
        ):
            assert catalog_answers(other) == catalog_answers(known)
        shutil.rmtree(places / "empty")
        Atlas.open(settings=place(places / "empty")).close()
    assert not any(error and "kept in the catalog" in str(error) for error in refused.values())


def attempt(home: Path, path: Path) -> AtlasError | None:
    """Import; whatever is refused leaves the catalog as it was."""
    with Atlas.open(settings=place(home)) as atlas:
        before = rows(atlas)
        try:
            result = import_bundle(atlas, path)
        except AtlasError as error:
            if "kept in the catalog" not in error.hint:
                assert rows(atlas) == before
            return error
        assert result.bundles[0].added == {}
        return None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["", "\x00", "x" * 5000, "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KINDS = sorted(name for name in members(EXPORT)[1] if name.endswith(".jsonl"))


def spots(value: object) -> list[tuple[dict | list, object]]:
    """Every (container, key) inside a record."""
    found: list[tuple[dict | list, object]] = []
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        found.append((value, key))  # type: ignore[arg-type]
        found += spots(part)
    return found


@settings(RELAXED, max_examples=40)
@given(
    kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32), value=JSON, how=st.sampled_from(["set", "drop", "copy"])
)
def test_a_careful_forgery_is_refused_whole_or_gives_an_atlas_that_answers(places, tmp_path, kind, seed, value, how):
    choose = random.Random(seed)

    def forge(manifest, content):
        records = [json.loads(line) for line in content[kind].splitlines()]
        container, key = choose.choice(spots(choose.choice(records)))
        if how == "set":
            container[key] = value
        elif how == "drop":
            del container[key]
        else:
            other, there = choose.choice(spots(choose.choice(records)))
            container[key] = other[there]
        content[kind] = b"".join(json.dumps(record).encode() + b"\n" for record in records)

    try:
        path = rewrite(EXPORT, tmp_path / "forged.atlas", forge)
    except ValueError:  # a container inside itself: no JSON
        return
    home = tmp_path / "target"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(places / "empty", home)
    with Atlas.open(settings=place(home)) as atlas:
        before = rows(atlas)
        try:
            import_bundle(atlas, path)
        except AtlasError as error:
            if "kept in the catalog" not in error.hint:
                assert rows(atlas) == before
                return
        first = catalog_answers(atlas)
        assert len(first["circuits"]) == 4
        counts = rows(atlas)
        assert import_bundle(atlas, path).bundles[0].added == {}
        assert rows(atlas) == counts
        assert catalog_answers(atlas) == first
