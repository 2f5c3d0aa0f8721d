"""The fold of the log, without a database: what holds after any sequence of additions, changes, removals and undos."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atlas.catalog.annotation_log import checked_text, fold, taken_back
from atlas.catalog.tables import Annotation
from atlas.errors import UsageError

Step = tuple[str, int]  # what is done, and to which earlier entry (modulo)
steps = st.lists(st.tuples(st.sampled_from(["add", "change", "remove", "undo"]), st.integers(0, 99)), max_size=25)


def entry(number: int, thread: str, action: str, undoes: str | None = None) -> Annotation:
    return Annotation(
        id=f"{number:03}", thread=thread or f"{number:03}", action=action, text=f"t{number}", members=[], undoes=undoes
    )


def written(sequence: list[Step]) -> list[Annotation]:
    """A log of these steps; a step to nothing, or an undo of what is undone, is left out, as the verbs refuse it."""
    log: list[Annotation] = []
    for number, (action, choice) in enumerate(sequence):
        target = log[choice % len(log)] if log else None
        if action == "add":
            log.append(entry(number, "", "add"))
        elif target is None:
            continue
        elif action == "undo":
            if target.id not in taken_back(log):
                log.append(entry(number, target.thread, "undo", target.id))
        elif target.thread in fold(log):
            log.append(entry(number, target.thread, action))
    return log


def texts(log: list[Annotation]) -> dict[str, str]:
    return {thread: state.said.text for thread, state in fold(log).items()}


def simple_model(log: list[Annotation]) -> dict[str, str]:
    """The definition word for word: an entry holds unless an undo that holds takes it back."""

    def holds(target: Annotation) -> bool:
        return not any(each.undoes == target.id and holds(each) for each in log)

    now: dict[str, str] = {}
    for each in log:
        if holds(each) and each.action in ("add", "change"):
            now[each.thread] = each.text
    for each in log:
        if holds(each) == (each.action == "remove") and each.action in ("add", "remove"):
            now.pop(each.thread, None)
    return now


# two undos of one entry that both hold, of which one is taken back: the entry stays undone
TWO_UNDOS = [("add", 0), ("undo", 0), ("undo", 1), ("undo", 0), ("undo", 2), ("undo", 3)]


@example(TWO_UNDOS)
@given(steps)
def test_the_fold_of_any_log_is_what_the_simple_model_says(sequence: list[Step]) -> None:
    log = written(sequence)
    assert texts(log) == simple_model(log)
    assert texts(list(reversed(log))) == texts(log)  # the order of reading does not matter


@given(steps)
def test_undoing_the_newest_entry_restores_the_state_before_it_and_undoing_that_the_state_after(sequence) -> None:
    log = written(sequence)
    if not log:
        return
    before, newest = texts(log[:-1]), log[-1]
    undone = [*log, entry(900, newest.thread, "undo", newest.id)]
    assert texts(undone) == before
    assert texts([*undone, entry(901, newest.thread, "undo", "900")]) == texts(log)


@given(steps)
def test_a_log_is_only_added_to_so_every_earlier_state_can_be_read_again(sequence) -> None:
    log = written(sequence)
    for length in range(len(log)):
        assert texts(log[:length]) == simple_model(log[:length])


@given(st.text(min_size=1, max_size=60))
def test_a_tag_in_its_stored_form_is_stored_the_same(text: str) -> None:
    try:
        once = checked_text("tag", text)
    except UsageError:
        return
    assert checked_text("tag", once) == once
    assert once == unicodedata.normalize("NFC", once)
    assert "\n" not in once
    assert not once.startswith("#")


def test_blank_and_too_long_texts_are_refused_and_the_longest_are_not() -> None:
    for kind, limit in (("note", 20_000), ("tag", 200), ("name", 200), ("supernode", 200)):
        assert len(checked_text(kind, "x" * limit)) == limit
        for bad in ("", "  \n", "x" * (limit + 1)):
            with pytest.raises(UsageError):
                checked_text(kind, bad)
    with pytest.raises(UsageError):
        checked_text("tag", "# #")


def test_texts_are_brought_into_a_form_that_every_database_holds() -> None:
    assert checked_text("tag", " #Two-Hop  FACTS\n") == "two-hop facts"
    assert checked_text("name", "a\n b\tc") == "a b c"
    assert checked_text("note", "\n one\n two \x00\n") == "one\n two �"
    assert checked_text("note", "half \ud800") == "half ?"
