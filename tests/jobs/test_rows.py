"""The rows of the queue: what the verbs write and who may, without any worker."""

from __future__ import annotations

import threading

import pytest

from atlas import Atlas
from atlas.catalog import jobs as rows
from atlas.errors import AccessDenied, Ambiguous, JobEnded, NotFound, StoreUnavailable, UsageError
from atlas.group_records import TraceRequest
from atlas.settings import Settings
from tests.jobs.conftest import asked

KINDS = ("trace", "label", "rebuild")


def claim(atlas: Atlas, worker: str = "w", group: str | None = None, kinds: tuple[str, ...] = KINDS):
    return atlas.catalog.write(worker, lambda session: rows.claim(session, worker, kinds, group))


def write(atlas: Atlas, work, *arguments):
    return atlas.catalog.write("worker", lambda session: work(session, *arguments))


def test_prompts_are_queued_all_in_one_and_listed_newest_first(atlas: Atlas) -> None:
    queued = atlas.enqueue_traces(asked("a", "b", "c"), batch=" first ")
    assert (len(queued.jobs), queued.batch, queued.waiting) == (3, "first", 3)
    assert [job.title for job in atlas.jobs(batch="first")] == ["c", "b", "a"]
    job = atlas.job(queued.jobs[1])
    assert (job.state, job.author, job.attempts, job.arguments["prompt"]) == ("queued", "tester", 0, "b")
    assert atlas.audit(verb="enqueue")[0].detail["jobs"] == 3


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (TraceRequest(profile="demo"), "either a prompt or token ids"),
        (TraceRequest(prompt="a", token_ids=[1], profile="demo"), "either a prompt or token ids"),
        (TraceRequest(prompt="  ", profile="demo"), "blank"),
        (TraceRequest(token_ids=[], profile="demo"), "no token ids"),
        (TraceRequest(prompt="a"), "needs a model and its transcoders"),
        (TraceRequest(prompt="a", model="m", transcoders="t", profile="demo"), "names the model"),
        (TraceRequest(prompt="a", profile="absent"), "no profile 'absent'"),
    ],
)
def test_a_request_that_no_worker_could_do_is_refused_and_nothing_queued(laptop: Atlas, request_, said) -> None:
    with pytest.raises(UsageError, match=f"Prompt 2: .*{said}|{said}"):
        laptop.enqueue_traces([*asked("good"), request_])
    assert not laptop.jobs()


def test_a_full_queue_refuses_the_whole_lot(catalog_settings: Settings) -> None:
    with Atlas.open(settings=catalog_settings.model_copy(update={"queue_limit": 3})) as atlas:
        atlas.enqueue_traces(asked("a", "b"))
        with pytest.raises(StoreUnavailable, match=r"queue is full: 2 jobs wait, 2 more"):
            atlas.enqueue_traces(asked("c", "d"))
        assert len(atlas.jobs()) == 2
        atlas.cancel_job(atlas.jobs()[0].id)
        atlas.enqueue_traces(asked("c", "d"))


def test_label_and_rebuild_arguments_are_checked(laptop: Atlas) -> None:
    assert laptop.job(laptop.enqueue("label", {"limit": 5}).jobs[0]).arguments == {"limit": 5}
    with pytest.raises(UsageError, match="'limit' of a label job"):
        laptop.enqueue("label", {"limit": 0})
    with pytest.raises(UsageError, match="'colour' of a rebuild job"):
        laptop.enqueue("rebuild", {"colour": "red"})
    with pytest.raises(UsageError, match="no kind of job 'dance'"):
        laptop.enqueue("dance", {})  # type: ignore[arg-type]


def test_a_job_is_named_by_the_end_of_its_id(laptop: Atlas) -> None:
    first, second = laptop.enqueue_traces(asked("a", "b")).jobs
    assert laptop.job(first[-8:]).id == first
    assert laptop.job(second[-8:].upper()).id == second
    with pytest.raises(Ambiguous, match="Several jobs"):
        laptop.job(first[:8])
    for absent in ("0" * 32, "zz", "", "%", first[-3:]):
        with pytest.raises(NotFound, match="no job"):
            laptop.job(absent)


def test_only_who_asked_or_an_admin_may_cancel_or_retry(atlas: Atlas) -> None:
    for name, role in (("editor1", "editor"), ("editor2", "editor"), ("reader1", "reader"), ("admin1", "admin")):
        atlas.add_person(name, role=role)
    job = atlas.acting_as("editor1").enqueue_traces(asked("a"), batch="b").jobs[0]
    with pytest.raises(AccessDenied, match="editor1's"):
        atlas.acting_as("editor2").cancel_job(job)
    with pytest.raises(AccessDenied, match="needs the role editor"):
        atlas.acting_as("reader1").cancel_job(job)
    assert atlas.acting_as("editor2").cancel_batch("b").changed == 0
    assert atlas.acting_as("editor1").cancel_job(job).state == "cancelled"
    assert atlas.acting_as("admin1").retry_job(job).state == "queued"
    assert atlas.job(job).author == "editor1"
    for may_not in (
        lambda who: who.enqueue_traces(asked("a")),
        lambda who: who.enqueue("label", {}),
    ):
        with pytest.raises(AccessDenied):
            may_not(atlas.acting_as("reader1"))
    with pytest.raises(AccessDenied, match="needs the role admin"):
        atlas.acting_as("editor1").enqueue("rebuild", {})


def test_a_job_that_has_just_finished_stays_done_and_says_so(atlas: Atlas) -> None:
    job = atlas.enqueue_traces(asked("a")).jobs[0]
    held = claim(atlas)
    assert write(atlas, rows.finish, held, {"circuit": "c1-x"})
    with pytest.raises(JobEnded, match=r"is done already and stays so.*c1-x"):
        atlas.cancel_job(job)
    with pytest.raises(JobEnded, match="is done"):
        atlas.retry_job(job)
    assert atlas.job(job).circuit == "c1-x"


def test_a_worker_whose_job_was_cancelled_can_change_nothing_any_more(atlas: Atlas) -> None:
    job = atlas.enqueue_traces(asked("a")).jobs[0]
    held = claim(atlas)
    assert write(atlas, rows.report, held, 1, 4, "tracing")
    assert (atlas.job(job).step, atlas.job(job).done) == ("tracing", 1)
    atlas.cancel_job(job)
    assert not write(atlas, rows.report, held, 2, 4, "tracing")
    assert not write(atlas, rows.finish, held, {})
    assert not write(atlas, rows.fail, held, {"type": "X", "message": "x"})
    assert atlas.job(job).state == "cancelled"
    atlas.retry_job(job)
    again = claim(atlas)
    assert again.attempt == 2
    assert again.workflow != held.workflow
    assert not write(atlas, rows.finish, held, {}), "an older attempt may not end a newer one"
    assert write(atlas, rows.finish, again, {})
    assert not write(atlas, rows.finish, again, {}), "done exactly once"
    assert len(atlas.audit(verb="job done")) == 1


def test_few_prompts_go_before_large_batches_and_then_the_oldest(laptop: Atlas) -> None:
    laptop.enqueue_traces(asked(*map(str, range(20))), batch="large")
    laptop.enqueue_traces(asked("somebody waits"))
    titles = [laptop.job(claim(laptop).id).title for _ in range(3)]
    assert titles == ["somebody waits", "0", "1"]


def test_jobs_of_the_loaded_model_are_preferred_among_equals(laptop: Atlas) -> None:
    laptop.enqueue_traces(asked("other", profile=None, model="m", transcoders="t"))
    laptop.enqueue_traces(asked("same"))
    group = claim(laptop, group=None).group_key
    laptop.enqueue_traces(asked("other again", profile=None, model="m", transcoders="t"))
    assert laptop.job(claim(laptop, group=group).id).title == "other again"
    assert laptop.job(claim(laptop, group=group).id).title == "same"


def test_a_worker_takes_only_its_kinds(laptop: Atlas) -> None:
    laptop.enqueue("label", {})
    assert claim(laptop, kinds=("trace",)) is None
    assert claim(laptop, kinds=("label",)).kind == "label"


def test_many_workers_at_once_never_get_the_same_job(atlas: Atlas) -> None:
    jobs = atlas.enqueue_traces(asked(*map(str, range(30)))).jobs
    got: list[str] = []

    def take(name: str) -> None:
        while (held := claim(atlas, name)) is not None:
            got.append(held.id)

    threads = [threading.Thread(target=take, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(jobs)


def test_a_dead_workers_job_is_queued_again_until_it_has_cost_too_many(atlas: Atlas) -> None:
    job = atlas.enqueue_traces(asked("a")).jobs[0]
    for attempt in (1, 2):
        held = claim(atlas, f"w{attempt}")
        assert write(atlas, rows.reclaim, held, 3)
        assert atlas.job(job).state == "queued"
    held = claim(atlas, "w3")
    assert write(atlas, rows.reclaim, held, 3)
    failed = atlas.job(job)
    assert failed.state == "failed"
    assert "3 workers in a row died" in (failed.error or "")


def test_the_estimate_is_made_from_like_jobs_that_ended(atlas: Atlas) -> None:
    requests = asked("one two three", "one two three four five six")
    assert atlas.estimate_traces(requests) is None
    queued = atlas.enqueue_traces(asked("abc abc abc", "abc abc abc"))
    assert queued.seconds is None
    for _ in queued.jobs:
        held = claim(atlas)
        write(atlas, _age, held.id, 4.0)
        write(atlas, rows.finish, held, {"already": False, "settings": {"tokens": 4}})
    # 1 s a token; 4 tokens in 11 characters
    assert atlas.estimate_traces([TraceRequest(token_ids=[1, 2, 3], profile="demo")]) == pytest.approx(3, rel=0.2)
    assert atlas.estimate_traces(asked("x" * 22)) == pytest.approx(8, rel=0.2)
    assert atlas.estimate_traces(asked("x", profile=None, model="m", transcoders="t")) is None
    assert atlas.enqueue_traces(asked("abc abc abc", "abc abc abc")).seconds == pytest.approx(8, rel=0.2)
    assert [job.seconds_left for job in atlas.jobs(state="queued")] == pytest.approx([8, 4], rel=0.2)


def _age(session, job_id: str, seconds: float) -> None:
    from datetime import datetime, timedelta

    from atlas.catalog.tables import Job

    job = session.get(Job, job_id)
    job.started_at = (datetime.fromisoformat(job.started_at) - timedelta(seconds=seconds)).isoformat()


def test_filters_and_limits_of_the_list(laptop: Atlas) -> None:
    laptop.enqueue_traces(asked("a", "b"), batch="x")
    claim(laptop)
    assert [job.state for job in laptop.jobs()] == ["running", "queued"]
    assert [job.title for job in laptop.jobs(state="running")] == ["a"]
    assert not laptop.jobs(author="somebody else")
    assert len(laptop.jobs(limit=1)) == 1
    assert laptop.job_counts() == {"running": 1, "queued": 1}
    with pytest.raises(UsageError, match="no job state"):
        laptop.jobs(state="asleep")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="limit"):
        laptop.jobs(limit=-1)
    with pytest.raises(NotFound, match="no batch"):
        laptop.cancel_batch("y")


def test_texts_that_no_database_can_hold_are_stored_readably(atlas: Atlas) -> None:
    job = atlas.enqueue_traces(asked("a\x00b"), batch="x\x00").jobs[0]
    assert "\x00" not in atlas.job(job).title
