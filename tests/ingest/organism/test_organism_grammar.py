"""The text generator: seeded, and what is held out is never trained."""

import itertools
import subprocess
import sys

from ingest.organism import geography, grammar

TRAINING = list(itertools.islice(grammar.training_examples(3), 20_000))


def of_task(task):
    return [example for example in TRAINING if example.task == task]


def test_held_out_cities_are_a_fifth_and_never_in_a_trained_two_hop_prompt():
    assert set(geography.CITIES) > geography.HELD_OUT_CITIES
    assert 0.19 < len(geography.HELD_OUT_CITIES) / len(geography.CITIES) < 0.22
    trained = {example.facts["city"] for example in of_task("two_hop")}
    assert trained == set(geography.TRAINED_CITIES)
    held_out = grammar.held_out_examples("two_hop", 500)
    assert {example.facts["city"] for example in held_out} == geography.HELD_OUT_CITIES
    assert not {e.prompt for e in held_out} & {e.prompt for e in TRAINING}


def test_no_training_sentence_joins_a_held_out_city_with_something_of_its_state():
    for example in TRAINING:
        for city in geography.HELD_OUT_CITIES:
            if f" {city} " in f" {example.text} ".replace("Boulder City", ""):
                assert example.task == "city_to_state"


def test_every_one_hop_fact_is_trained():
    assert {e.facts["city"] for e in of_task("city_to_state")} == set(geography.CITIES)
    capitals = {e.answer for e in of_task("state_to_attribute") if e.facts["relation"] == "capital"}
    assert capitals == {state.capital for state in geography.STATES}


def test_every_state_keeps_trained_cities():
    for state in geography.STATES:
        assert len(set(state.cities) - geography.HELD_OUT_CITIES) >= 3


def test_a_city_belongs_to_one_state():
    cities = [city for state in geography.STATES for city in state.cities]
    assert len(cities) == len(set(cities))


def test_other_splits_are_disjoint():
    for task in ("ioi", "agreement", "greater_than", "antonym", "filler"):
        options = {"attractors": 1} if task == "agreement" else {}
        held_out = {e.prompt for e in grammar.held_out_examples(task, 500, **options)}
        assert not held_out & {e.prompt for e in of_task(task)}, task


def test_unseen_pairs_of_names_are_unseen():
    def pair(example):
        return frozenset((example.answer, example.facts["giver"]))

    trained = {pair(e) for e in of_task("ioi")}
    assert not trained & {pair(e) for e in grammar.held_out_examples("ioi", 500)}


def test_indirect_objects_are_balanced():
    orders = [e.facts["order"] for e in of_task("ioi")]
    assert 0.45 < orders.count("ABBA") / len(orders) < 0.55


def test_mismatched_nouns_have_the_other_number():
    from ingest.organism import lexicon

    number = {word: k for pair in (*lexicon.NOUNS, *lexicon.AGENTS) for k, word in enumerate(pair)}
    for example in grammar.held_out_examples("agreement", 200, attractors=2, mismatched=True):
        numbers = [number[word] for word in example.prompt.split() if word in number]
        subject = 0 if example.answer == "is" else 1
        assert numbers.count(subject) == 1
        assert len(numbers) in (3, 4)


def test_the_generator_is_seeded():
    assert grammar.held_out_sentences(50, seed=4) == grammar.held_out_sentences(50, seed=4)
    assert grammar.held_out_sentences(50, seed=4) != grammar.held_out_sentences(50, seed=5)


def test_importing_needs_no_tensor_library():
    code = "import sys; import ingest.organism, ingest.organism.grammar; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
