"""Trace, Jobs and What is new over a real atlas; Streamlit's own test driver, no browser and no worker."""

from __future__ import annotations

from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from atlas import Atlas
from atlas.catalog import jobs as rows
from atlas.catalog import workers
from atlas.group_records import TraceRequest
from atlas.settings import Settings
from tests.ui.conftest import HOSTILE, Filled
from tests.ui.test_pages import opened, shown
from ui import shared, work

DEMO = {"profile": "demo"}


@pytest.fixture(autouse=True)
def _one_atlas_per_test(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared, "_warm", lambda atlas: None)
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.fixture
def atlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The atlas that the pages of the test are over, as the local person sees it."""
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ATLAS_ACTOR", "tester")
    with Atlas.open() as opened_atlas:
        yield opened_atlas


def queue(atlas: Atlas, *prompts: str, batch: str | None = None) -> list[str]:
    return atlas.enqueue_traces([TraceRequest(prompt=prompt, **DEMO) for prompt in prompts], batch).jobs


def ended(atlas: Atlas, error: str | None = None, **result: object) -> None:
    """What a worker writes when the next job ends."""

    def work_on(session) -> None:
        claim = rows.claim(session, "gpu-1", ["trace"])
        assert claim is not None
        if error is None:
            rows.finish(session, claim, result)
        else:
            rows.fail(session, claim, {"type": "ModelRejected", "message": error, "hint": "Put it back."})

    atlas.catalog.write("gpu-1", work_on)


def work_begins(atlas: Atlas, name: str = "gpu-1") -> None:
    atlas.catalog.write(name, lambda s: workers.start(s, name, "instance", "lab-host", 4711, "cuda:0", "0.1"))


def labels_of(page: AppTest) -> list[str]:
    return [button.label for button in page.button]


def press(page: AppTest, label: str) -> AppTest:
    next(button for button in page.button if button.label == label).click().run()
    assert not page.exception, [element.value for element in page.exception]
    return page


# -- Trace


def test_a_prompt_is_queued_with_its_model_and_options_and_followed(atlas: Atlas):
    page = opened("trace")
    page.text_area[0].set_value("The opposite of hot is").run()
    next(box for box in page.number_input if box.label == "Most features").set_value(50).run()
    page.text_input[0].set_value(" cold, warm").run()
    press(page, "Enqueue")
    (job,) = atlas.jobs()
    asked = atlas.job(job.id).arguments
    assert asked["prompt"] == "The opposite of hot is"
    assert asked["profile"] == "demo"
    assert asked["targets"] == [" cold", " warm"]
    assert asked["max_features"] == 50
    assert job.author == "tester"
    assert job.batch is None
    assert page.query_params["job"] in (job.id, [job.id])
    html = shown(page)
    assert f'data-job="{job.id}" data-state="queued"' in html
    assert "No worker is alive" in html
    assert "atlas worker" in html
    assert page.text_area[0].value == ""


def test_what_the_model_writes_and_a_token_in_the_middle_can_be_asked_for(atlas: Atlas):
    page = opened("trace", prompt="The opposite of hot is")
    next(box for box in page.number_input if box.label == "Let the model write first").set_value(3).run()
    next(box for box in page.number_input if box.label == "Explain the token at").set_value(-2).run()
    press(page, "Enqueue")
    asked = atlas.job(atlas.jobs()[0].id).arguments
    assert (asked["continue_by"], asked["at"]) == (3, -2)

    page = opened("trace", prompt="The opposite of hot is")
    next(box for box in page.number_input if box.label == "Explain the token at").set_value(0).run()
    press(page, "Enqueue")
    assert "nothing before it" in shown(page)
    assert len(atlas.jobs()) == 1


def test_lines_are_prompts_of_one_batch_unless_they_are_said_to_be_one(atlas: Atlas):
    page = opened("trace")
    page.text_area[0].set_value("one\n\n two\nthree").run()
    press(page, "Enqueue")
    found = atlas.jobs()
    assert len(found) == 3
    assert {atlas.job(job.id).arguments["prompt"] for job in found} == {"one", " two", "three"}
    (batch,) = {job.batch for job in found}
    assert batch
    assert batch.startswith("tester 2")
    assert "3 waiting" in shown(page)

    page = opened("trace")
    page.text_area[0].set_value("one\ntwo").run()
    next(box for box in page.checkbox if box.label == "All lines are one prompt").check().run()
    press(page, "Enqueue")
    assert atlas.job(atlas.jobs()[0].id).arguments["prompt"] == "one\ntwo"


def test_a_model_may_be_named_without_a_profile(atlas: Atlas):
    page = opened("trace", model="google/gemma", transcoders="some/set", prompt="hello")
    assert [box.value for box in page.selectbox[:3]] == ["", "google/gemma", "some/set"]
    press(page, "Enqueue")
    asked = atlas.job(atlas.jobs()[0].id).arguments
    assert (asked["model"], asked["transcoders"], asked["prompt"]) == ("google/gemma", "some/set", "hello")
    assert "profile" not in asked


def test_profiles_of_the_settings_are_offered_before_the_shipped_model(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "home" / "atlas.toml").write_text('[profiles.lab]\nmodel = "m"\ntranscoders = "t"\n')
    assert opened("trace").selectbox[0].options == ["lab", "demo (the shipped model)", "another model ..."]


@pytest.mark.parametrize(
    ("query", "said"),
    [({}, "no prompt to enqueue"), ({"prompt": "x", "model": "m"}, "needs a model and its transcoders")],
)
def test_what_cannot_be_queued_is_said_and_nothing_is_queued(atlas: Atlas, query: dict, said: str):
    page = press(opened("trace", **query), "Enqueue")
    assert said in shown(page)
    assert not atlas.jobs()


def test_a_full_queue_is_said_and_the_prompts_stay(atlas: Atlas, monkeypatch: pytest.MonkeyPatch):
    queue(atlas, "first")
    monkeypatch.setenv("ATLAS_QUEUE_LIMIT", "1")
    page = press(opened("trace", prompt="second"), "Enqueue")
    assert "The queue is full" in shown(page)
    assert page.text_area[0].value == "second"
    assert len(atlas.jobs()) == 1


def test_an_estimate_comes_from_traces_that_ended(atlas: Atlas):
    assert "no estimate" in shown(opened("trace", prompt="x"))
    queue(atlas, "before")
    ended(atlas, circuit="c1-x")
    assert "of one worker" in shown(opened("trace", prompt="x"))


BATCH = b'prompt,max_features,profile\nThe opposite of hot is,20,\n"<b>bold</b>",-1,\nThe opposite of up is,,nowhere\nlast,,demo\n'


def test_a_file_lists_its_bad_rows_and_its_good_ones_go_to_the_queue(atlas: Atlas):
    page = opened("trace")
    page.file_uploader[0].upload("prompts.csv", BATCH).run()
    html = shown(page)
    assert "2 rows cannot be used" in html
    assert "<td>Line 3</td>" in html
    assert "nowhere" in html
    assert "2 prompts can be enqueued" in html
    press(page, "Enqueue these, without the rows above")
    found = atlas.jobs()
    assert {atlas.job(job.id).arguments["prompt"] for job in found} == {"The opposite of hot is", "last"}
    assert all(atlas.job(job.id).arguments["profile"] == "demo" for job in found)
    assert {job.batch.split(" ")[0] for job in found if job.batch} == {"prompts.csv"}


def test_a_file_of_no_use_is_two_sentences(atlas: Atlas):
    page = opened("trace")
    page.file_uploader[0].upload("prompts.csv", b"promt\nx\n").run()
    assert not page.exception
    assert 'role="alert"' in shown(page)
    assert "Columns are prompt" in shown(page)


# -- Jobs


def test_an_empty_queue_says_where_to_begin(atlas: Atlas):
    html = shown(opened("jobs"))
    assert "Nothing is queued" in html
    assert 'href="trace"' in html
    assert "No worker has ever run here" in html


def test_jobs_show_state_reason_circuit_and_worker(atlas: Atlas):
    work_begins(atlas)
    queue(atlas, "done one", "failed one", "running one", "waiting one", batch="first")
    ended(atlas, circuit="c1-abc")
    ended(atlas, "The model is gone.")
    claim = atlas.catalog.write("gpu-1", lambda s: rows.claim(s, "gpu-1", ["trace"]))
    assert claim is not None
    atlas.catalog.write("gpu-1", lambda s: rows.report(s, claim, 3, 12, "attribution"))
    html = shown(opened("jobs"))
    assert "1 waiting, 1 running, 1 done, 1 failed" in html
    assert "1 worker alive" in html
    assert 'href="circuit?circuit=c1-abc"' in html
    assert "The model is gone. Put it back." in html
    assert 'value="3" max="12"' in html
    assert "attribution" in html
    assert "lab-host" in html
    assert "No worker is alive" not in html


def test_filters_are_in_the_address(atlas: Atlas):
    queue(atlas, "alpha", batch="first")
    queue(atlas, "beta", batch="second")
    atlas.cancel_job(queue(atlas, "gamma")[0])
    with Atlas.open(actor="somebody") as other:
        queue(other, "delta")
    for query, titles in (
        ({"state": "cancelled"}, {"gamma"}),
        ({"batch": "second"}, {"beta"}),
        ({"mine": "yes", "state": "queued"}, {"alpha", "beta"}),
        ({"state": "nonsense"}, {"alpha", "beta", "gamma", "delta"}),
    ):
        html = shown(opened("jobs", **query))
        assert {name for name in ("alpha", "beta", "gamma", "delta") if f">{name}<" in html} == titles
    assert "No job fits" in shown(opened("jobs", batch="no <such>"))


def test_a_job_is_cancelled_and_tried_again_by_its_button(atlas: Atlas):
    (job,) = queue(atlas, "one")
    page = press(opened("jobs"), "Cancel")
    assert atlas.job(job).state == "cancelled"
    assert "Cancelled: 1 job." in shown(page)
    page = press(page, "Retry")
    assert atlas.job(job).state == "queued"
    assert "Queued again: 1 job." in shown(page)


def test_chosen_jobs_are_cancelled_together_and_a_batch_as_a_whole(atlas: Atlas):
    ids = queue(atlas, "one", "two", "three", batch="first")
    page = opened("jobs")
    for job_id in ids[:2]:
        page.checkbox(f"pick-{job_id}").check().run()
    page = press(page, "Cancel chosen")
    assert [atlas.job(job_id).state for job_id in ids] == ["cancelled", "cancelled", "queued"]
    page = press(opened("jobs", batch="first"), "Retry the batch")
    assert "Queued again: 2 jobs." in shown(page)
    press(page, "Cancel the batch")
    assert {job.state for job in atlas.jobs()} == {"cancelled"}


def test_cancelling_a_job_that_has_just_ended_is_one_sentence(atlas: Atlas):
    queue(atlas, "one")
    page = opened("jobs")
    ended(atlas, circuit="c1-abc")
    html = shown(press(page, "Cancel"))
    assert "is done already" in html
    assert "Cancelled: 0 jobs." in html


def test_a_job_has_a_page_with_what_was_asked_and_an_unknown_one_is_a_sentence(atlas: Atlas):
    (job,) = queue(atlas, "The opposite of hot is")
    html = shown(opened("jobs", job=job))
    assert "The opposite of hot is" in html
    assert job in html
    assert 'role="alert"' in shown(opened("jobs", job="ffffffffffff"))


def test_a_long_queue_is_shown_in_pieces(atlas: Atlas):
    queue(atlas, *(f"prompt {i}" for i in range(30)))
    page = opened("jobs")
    assert shown(page).count('class="ca-job"') == 25
    assert shown(press(page, "Show more")).count('class="ca-job"') == 30


# -- who may


@pytest.fixture
def as_person(atlas: Atlas, monkeypatch: pytest.MonkeyPatch):
    """Pages with accounts: a function that opens one as somebody who signed in."""
    monkeypatch.setenv("ATLAS_ACCOUNTS", "true")
    for name, role in (("reader1", "reader"), ("editor1", "editor"), ("editor2", "editor"), ("admin1", "admin")):
        atlas.add_person(name, role, email=f"{name}@example.org")

    def open_as(name: str, page_name: str, **query: str) -> AppTest:
        page = AppTest.from_file(str(Path(work.__file__).parent / "pages" / f"{page_name}.py"), default_timeout=60)
        # Streamlit's driver knows no cookies, but people whom an identity provider has signed in
        page.secrets["auth"] = {"client_id": "atlas"}
        page.user = {"is_logged_in": True, "email": f"{name}@example.org", "email_verified": True}
        for key, value in query.items():
            page.query_params[key] = value
        page.run()
        assert not page.exception, [element.value for element in page.exception]
        return page

    return open_as


def test_a_reader_looks_and_cannot_queue_or_cancel(atlas: Atlas, as_person):
    queue(atlas, "one")
    page = as_person("reader1", "trace", prompt="two")
    assert next(button for button in page.button if button.label == "Enqueue").disabled
    assert "reader" in page.caption[0].value
    page = as_person("reader1", "jobs")
    assert ">one<" in shown(page)
    assert not {"Cancel", "Cancel chosen"} & set(labels_of(page))


def test_an_editor_cancels_only_the_own_jobs_and_an_admin_all(atlas: Atlas, as_person):
    (job,) = queue(atlas.acting_as("editor1"), "one")
    page = as_person("editor2", "jobs")
    assert next(button for button in page.button if button.label == "Cancel").disabled
    press(as_person("editor1", "jobs"), "Cancel")
    assert atlas.job(job).state == "cancelled"
    press(as_person("admin1", "jobs"), "Retry")
    assert atlas.job(job).state == "queued"


def test_what_an_editor_queues_is_the_editors_own(atlas: Atlas, as_person):
    press(as_person("editor1", "trace", prompt="one"), "Enqueue")
    assert [job.author for job in atlas.jobs()] == ["editor1"]


# -- What is new


def test_news_stay_until_they_are_marked_as_read_and_later_ones_are_not_swallowed(atlas: Atlas):
    queue(atlas, "first job", "second job")
    ended(atlas, circuit="c1-abc")
    assert "first job" in shown(opened("news"))
    page = opened("news")
    assert "first job" in shown(page)
    ended(atlas, "It failed while somebody read.")
    html = shown(press(page, "Mark all as read"))
    assert "first job" not in html
    assert "It failed while somebody read." in html
    html = shown(press(page, "Mark all as read"))
    assert "Nothing since then" in html
    assert "Nothing since then" in shown(opened("news"))


def test_home_counts_the_news_and_the_queue(atlas: Atlas):
    assert "What is new" not in shown(opened("home"))
    queue(atlas, "first job", "second job")
    ended(atlas, "Failed.")
    html = shown(opened("home"))
    assert "1 job of yours failed" in html
    assert "The queue: 1 waiting" in html


@pytest.mark.embedded
def test_circuits_by_others_are_new_and_link_to_them(filled: Filled, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ATLAS_HOME", str(filled.home))
    monkeypatch.setenv("ATLAS_ACTOR", "somebody-else")
    html = shown(opened("news"))
    assert f"circuit?circuit={filled.city.id}" in html
    assert "<b>3</b><span>circuits by others</span>" in html
    assert "<img" not in html
    assert "3 new circuits" in shown(opened("home"))
    monkeypatch.setenv("ATLAS_ACTOR", "tester")
    st.cache_resource.clear()
    assert filled.city.id not in shown(opened("news"))


# -- markup in every text


def test_markup_in_prompts_reasons_batches_and_workers_stays_text(atlas: Atlas):
    work_begins(atlas, HOSTILE)
    job, *_ = queue(atlas, HOSTILE, HOSTILE + " twice", batch=HOSTILE)
    ended(atlas, HOSTILE)
    upload = opened("trace")
    upload.file_uploader[0].upload("x.csv", f'prompt,profile\n"{HOSTILE}",demo\nx,"{HOSTILE}"\n'.encode()).run()
    for page in (
        opened("jobs"),
        opened("jobs", batch=HOSTILE),
        opened("jobs", job=job),
        opened("trace", batch=HOSTILE),
        opened("trace", prompt=HOSTILE, model=HOSTILE, transcoders=HOSTILE),
        opened("news"),
        upload,
    ):
        html = shown(page)
        assert "&lt;img" in html or page.text_area
        assert "<img" not in html
        for element in (*page.markdown, *page.error, *page.warning, *page.caption):
            assert "onerror" not in element.value
        for button in (*page.button, *page.checkbox):
            assert "onerror" not in (button.label or "") + (button.help or "")


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, ""), (0.2, "1 s"), (89, "89 s"), (600, "10 min"), (7200, "2 h"), (400_000, "5 days")]
)
def test_lengths_of_time_are_said_in_words(seconds: float | None, said: str):
    assert work.span(seconds) == said


def test_a_time_that_is_none_has_no_age(settings: Settings):
    assert work.age("yesterday") is None
    assert work.age(None) is None
    assert (work.age("2020-01-01T00:00:00+00:00") or 0) > 1e8
