"""What the address, the canvas and Python tell each other about the choice."""

from __future__ import annotations

from ui import view

KNOWN = {"feature/0/1/6", "feature/1/1/7", "token/-1/0/5"}


def test_the_address_asks_for_a_node_and_pins():
    got = view.from_address("c", "feature/0/1/6", "token/-1/0/5,feature/1/1/7", None, KNOWN, [])
    assert got == view.View("c", 1, "feature/0/1/6", ("token/-1/0/5", "feature/1/1/7"))


def test_nodes_that_the_circuit_does_not_have_are_left_out():
    got = view.from_address("c", "feature/9/9/9", "gone,token/-1/0/5,token/-1/0/5", None, KNOWN, [])
    assert (got.click, got.pins) == ("", ("token/-1/0/5",))


def test_pins_of_the_file_show_until_the_reader_takes_the_last_one_away():
    first = ["token/-1/0/5"]
    assert view.from_address("c", "", "", None, KNOWN, first).pins == ("token/-1/0/5",)
    without = view.View("c", 2, "", ())
    assert view.address_pins(without, first) == view.NO_PINS
    assert view.from_address("c", "", view.NO_PINS, None, KNOWN, first).pins == ()


def test_an_unchanged_address_keeps_the_number_and_a_changed_one_takes_the_next():
    last = view.View("c", 7, "feature/0/1/6", ())
    assert view.from_address("c", "feature/0/1/6", "", last, KNOWN, []) is last
    back = view.from_address("c", "", "", last, KNOWN, [])
    assert (back.seq, back.click) == (8, "")


def test_another_circuit_in_the_same_session_takes_the_next_number():
    assert view.from_address("d", "", "", view.View("c", 7, "", ()), KNOWN, []).seq == 8


def test_a_choice_from_the_canvas_is_checked():
    good = {"key": "c", "seq": 3, "click": "feature/0/1/6", "pins": ["token/-1/0/5", "gone", 4]}
    assert view.from_canvas(good, "c", KNOWN) == view.View("c", 3, "feature/0/1/6", ("token/-1/0/5",))
    assert view.from_canvas({**good, "key": "other"}, "c", KNOWN) is None
    assert view.from_canvas({**good, "pins": "all"}, "c", KNOWN) is None
    assert view.from_canvas({**good, "click": "<b>"}, "c", KNOWN).click == ""
    assert view.from_canvas(None, "c", KNOWN) is None
    assert view.from_canvas("text", "c", KNOWN) is None


EDGE = "feature/0/1/6->feature/1/1/7"


def test_an_edge_is_chosen_instead_of_a_node_and_only_one_that_is_there():
    has_edge = {EDGE}.__contains__
    got = view.from_address("c", "", "", None, KNOWN, [], EDGE, has_edge)
    assert (got.edge, got.click) == (EDGE, "")
    assert got.to_data()["edge"] == EDGE
    assert view.from_address("c", "", "", got, KNOWN, [], EDGE, has_edge) is got
    assert view.from_address("c", "", "", None, KNOWN, [], "a->b", has_edge).edge == ""
    assert view.from_address("c", "feature/0/1/6", "", None, KNOWN, [], EDGE, has_edge).edge == ""

    chosen = {"key": "c", "seq": 3, "click": "", "edge": EDGE, "pins": []}
    assert view.from_canvas(chosen, "c", KNOWN, has_edge).edge == EDGE
    for wrong in ({"edge": "<b>"}, {"edge": 4}, {"edge": None}, {"click": "feature/0/1/6"}):
        assert view.from_canvas({**chosen, **wrong}, "c", KNOWN, has_edge).edge == ""
