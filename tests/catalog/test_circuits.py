from __future__ import annotations

import numpy as np
import pytest

from atlas.catalog import audit, circuits, collections, models
from atlas.circuit import ModelRef, SetRef
from atlas.circuit_file import from_bytes
from atlas.errors import Ambiguous, InputRejected, NotFound, UsageError


def test_a_circuit_comes_back_as_it_went_in(make_circuit, keep, read):
    circuit = make_circuit()
    back = from_bytes(read(circuits.blob, keep(circuit)))
    assert back.id == circuit.id
    assert back.record == circuit.record
    for name, column in circuit.nodes.columns().items():
        np.testing.assert_array_equal(getattr(back.nodes, name), column)


def test_lists_are_newest_first_and_stop_at_the_limit(make_circuit, keep, read):
    ids = [keep(make_circuit(prompt)) for prompt in ("one a", "two a", "three a")]
    assert [row.id for row in read(circuits.listing)] == ids[::-1]
    assert [row.id for row in read(circuits.listing, limit=1)] == ids[2:]
    assert read(circuits.listing, limit=0) == []
    with pytest.raises(UsageError, match="below 0"):
        read(circuits.listing, limit=-1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("DALLAS", 1),
        ("dallas", 1),
        ("100%", 1),
        ("100_", 0),
        ("ÉCOLE", 1),
        ("école", 1),
        ("\\", 0),
        ("'; drop", 0),
        ("", 3),
    ],
)
def test_text_is_a_part_of_the_prompt_in_any_case_and_never_a_pattern(make_circuit, keep, read, text, found):
    for prompt in ("the state with Dallas", "it is 100% sure", "l’École normale"):
        keep(make_circuit(prompt))
    assert len(read(circuits.listing, text=text)) == found


def test_lists_filter_by_model_alias_and_collection(make_circuit, keep, read, write):
    toy, other = keep(make_circuit()), keep(make_circuit(model="org/other"))
    write(models.add_alias, "org/other", "other-7b")
    write(collections.put, "mine", toy)
    assert [row.id for row in read(circuits.listing, model="other-7b")] == [other]
    assert [row.id for row in read(circuits.listing, collection="mine")] == [toy]
    assert read(circuits.listing, model="toy")[0].collections == ["mine"]
    with pytest.raises(NotFound, match="nope") as error:
        read(circuits.listing, model="nope")
    assert "org/other, toy" in error.value.hint
    with pytest.raises(NotFound, match="theirs") as error:
        read(circuits.listing, collection="theirs")
    assert "mine" in error.value.hint


def test_a_circuit_is_found_by_id_prefix_and_name(make_circuit, keep, read):
    circuit = make_circuit("Dallas is")
    keep(circuit)
    for text in (circuit.id, circuit.id[:6], "Dallas-is", f"  {circuit.id} "):
        assert read(circuits.resolve, text) == circuit.id


@pytest.mark.parametrize("text", ["", "c1", "c1-%", "c1-zzzz", "Dallas", "____"])
def test_what_fits_no_circuit_is_not_found(make_circuit, keep, read, text):
    keep(make_circuit("Dallas is"))
    with pytest.raises(NotFound) as error:
        read(circuits.resolve, text)
    assert not isinstance(error.value, Ambiguous)
    assert "atlas circuits" in error.value.hint


def test_an_ambiguous_name_lists_at_most_five_candidates(make_circuit, keep, read):
    ids = [keep(make_circuit("same name", (0.5, -1.0, weight))) for weight in range(1, 8)]
    with pytest.raises(Ambiguous) as error:
        read(circuits.resolve, "same-name")
    assert sum(circuit_id in error.value.message for circuit_id in ids) == 5
    assert error.value.message.endswith(", ....")


@pytest.mark.parametrize(
    "name", ["/models/gemma", "~/gemma", "./gemma", "..", "C:\\gemma", "C:/gemma", "a\\b", "", " "]
)
def test_a_folder_or_a_blank_is_never_a_model_name(make_circuit, keep, read, name):
    with pytest.raises(InputRejected):
        keep(make_circuit().with_record(model=ModelRef(name=name)))
    with pytest.raises(InputRejected):
        keep(make_circuit().with_record(transcoders=SetRef(name=name)))
    assert read(models.names) == []


def test_hub_names_and_unknown_are_model_names(make_circuit, keep, read):
    keep(make_circuit(model="google/gemma-2-2b"))
    keep(make_circuit(model="unknown", transcoders="unknown"))
    assert read(models.names) == ["google/gemma-2-2b", "unknown"]


def test_sets_of_one_name_stay_apart_between_models_and_an_alias_joins(make_circuit, keep, read, write):
    keep(make_circuit(model="m1", transcoders="hp"))
    keep(make_circuit(model="m2", transcoders="hp"))
    write(models.add_set_alias, "m1", "hp", "hp-old-name")
    keep(make_circuit("c d", model="m1", transcoders="hp-old-name"))
    sets = {(row.model, row.transcoders) for row in read(circuits.listing)}
    assert sets == {("m1", "hp"), ("m2", "hp")}


def test_an_alias_that_is_another_models_name_is_refused(make_circuit, keep, write):
    keep(make_circuit(model="m1"))
    keep(make_circuit(model="m2"))
    with pytest.raises(InputRejected, match="another model"):
        write(models.add_alias, "m1", "m2")


def test_only_one_of_several_replicates_counts_and_the_oldest_other_inherits(make_circuit, keep, read, write):
    first, second, third = [keep(make_circuit(weights=(0.5, -1.0, weight))) for weight in (1, 2, 3)]
    elsewhere = keep(make_circuit("other prompt"))
    counted = lambda: {row.id for row in read(circuits.listing) if read(circuits.get, row.id).counted}  # noqa: E731
    assert counted() == {first, elsewhere}
    assert write(circuits.remove, third).promoted is None
    assert write(circuits.remove, first).promoted == second
    assert counted() == {second, elsewhere}


def test_deleting_leaves_nothing_of_the_circuit_but_its_audit(make_circuit, keep, read, write):
    circuit_id = keep(make_circuit())
    write(collections.put, "mine", circuit_id)
    write(circuits.remove, circuit_id)
    assert read(circuits.counts) == (0, 0, 0)
    assert read(collections.get, "mine") == ("tester", [])
    assert {row.verb for row in read(audit.rows, circuit_id)} == {"add", "collect", "delete"}
    with pytest.raises(NotFound):
        write(circuits.remove, circuit_id)


def test_every_write_is_signed_in_its_own_transaction(make_circuit, catalog, read):
    def fails(session):
        circuits.insert_circuit(session, make_circuit())
        raise KeyError("on purpose")

    with pytest.raises(KeyError):
        catalog.write("ada", fails)
    assert read(audit.rows) == []
    entry = catalog.write("ada", lambda session: circuits.insert_circuit(session, make_circuit()))
    row = read(audit.rows)[0]
    assert (row.actor, row.verb, row.subject) == ("ada", "add", entry.id)
    assert entry.created_by == "ada"


def test_texts_that_databases_refuse_are_kept_readable(make_circuit, keep, read):
    circuit = make_circuit("nul\x00 here")
    keep(circuit)
    assert "\x00" not in read(circuits.listing)[0].prompt
    assert from_bytes(read(circuits.blob, circuit.id)).record.prompt == "nul\x00 here"


def test_replicates_are_found_by_trace_key_newest_first(make_circuit, keep, read):
    first, second = make_circuit(), make_circuit(weights=(0.5, -1.0, 2.5))
    keep(first), keep(second), keep(make_circuit("other one"))
    assert first.trace_key == second.trace_key
    assert read(circuits.by_trace_key, first.trace_key) == [second.id, first.id]
