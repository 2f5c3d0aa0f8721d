"""The pages of a group in a real browser, with a real worker that traces with the shipped model."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright import sync_api as playwright_api

from atlas import Atlas
from atlas.catalog import jobs as rows
from atlas.graph import embedded
from atlas.group_records import TraceRequest
from atlas.settings import Settings
from tests.ui.conftest import HOSTILE

expect = playwright_api.expect
pytestmark = [pytest.mark.browser, pytest.mark.embedded, pytest.mark.slow]
TRACED = 180_000  # ms until a worker has started, loaded the model and traced


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("group") / "home"
    yield home
    embedded.stop(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def atlas(home: Path) -> Iterator[Atlas]:
    settings = Settings(home=home, actor="tester", embedded_heap="512m", embedded_idle_seconds=900)
    with Atlas.open(settings=settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(home: Path, atlas: Atlas) -> Iterator[str]:
    """Address of pages over a home of their own: other tests count what is in theirs."""
    from ui.run import end, launch

    os.environ["ATLAS_ACTOR"] = "tester"
    try:
        process, url = launch(open_browser=False, home=home)
    finally:
        del os.environ["ATLAS_ACTOR"]
    yield url
    end(process)


@contextlib.contextmanager
def worker(home: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "atlas", "worker", "--device", "cpu", "--name", "test-worker"]
    environment = {**os.environ, "ATLAS_HOME": str(home)}
    with (home / "worker.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def upload(page, name: str, data: bytes) -> None:
    """Once the page has come to rest: a file given to it while it is drawn for the first time is lost."""
    page.get_by_role("tab", name="Upload a file").click()
    page.locator("[data-test-script-state=notRunning]").wait_for()
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "text/csv", "buffer": data})


def card(page, job: str):
    return page.locator(f".ca-job[data-job='{job}']")


def test_an_empty_group_is_told_where_to_begin_and_that_nobody_works(page):
    page.goto("/jobs")
    expect(page.get_by_text("Nothing is queued")).to_be_visible()
    page.get_by_role("link", name="Trace prompts").click()
    expect(page.get_by_role("heading", name="Trace", exact=True)).to_be_visible()
    expect(page.get_by_text("No worker is alive")).to_be_visible()
    expect(page.locator(".ca-alert code", has_text="atlas worker")).to_be_visible()


def test_a_link_to_another_page_loads_nothing_again_and_back_leads_back(page):
    page.goto("/jobs")
    expect(page.get_by_role("link", name="Trace prompts")).to_be_visible()
    page.evaluate("window.stillTheSame = true")
    page.get_by_role("link", name="Trace prompts").click()
    expect(page.get_by_role("heading", name="Trace", exact=True)).to_be_visible()
    page.wait_for_url("**/trace")
    page.go_back()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    assert page.evaluate("window.stillTheSame") is True


def test_a_waiting_job_is_cancelled_and_another_persons_change_is_seen_without_a_click(page, atlas: Atlas):
    (job,) = atlas.enqueue_traces([TraceRequest(prompt="The opposite of up is", profile="demo")]).jobs
    page.goto("/jobs")
    expect(card(page, job)).to_have_attribute("data-state", "queued")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(card(page, job)).to_have_attribute("data-state", "cancelled")
    expect(page.get_by_text("Cancelled: 1 job.")).to_be_visible()
    assert atlas.job(job).state == "cancelled"
    atlas.retry_job(job)
    expect(card(page, job)).to_have_attribute("data-state", "queued")
    atlas.cancel_job(job)
    expect(card(page, job)).to_have_attribute("data-state", "cancelled")


def test_a_choice_stays_with_its_job_when_new_ones_come(page, atlas: Atlas):
    first, second = atlas.enqueue_traces([TraceRequest(prompt=f"prompt {i}", profile="demo") for i in (1, 2)]).jobs
    page.goto("/jobs?state=queued")
    page.get_by_label(f"Choose job {first[-8:]}").check(force=True)
    expect(page.get_by_role("button", name="Cancel chosen")).to_be_enabled()
    (third,) = atlas.enqueue_traces([TraceRequest(prompt="a later one", profile="demo")]).jobs
    expect(card(page, third)).to_be_visible()
    page.get_by_role("button", name="Cancel chosen").click()
    expect(page.get_by_text("Cancelled: 1 job.")).to_be_visible()
    expect(card(page, first)).to_have_count(0)
    assert [atlas.job(job).state for job in (first, second, third)] == ["cancelled", "queued", "queued"]
    for job in (second, third):
        atlas.cancel_job(job)


def test_markup_in_prompts_batches_and_reasons_is_text(page, atlas: Atlas):
    atlas.enqueue_traces([TraceRequest(prompt=HOSTILE, profile="demo")], batch=HOSTILE)

    def fail(session) -> None:
        claim = rows.claim(session, HOSTILE, ["trace"])
        assert claim is not None
        rows.fail(session, claim, {"type": "ModelRejected", "message": HOSTILE, "hint": HOSTILE})

    atlas.catalog.write("tester", fail)
    for address in ("/jobs", "/news", "/"):
        page.goto(address)
        expect(page.locator(".ca-title")).to_be_visible()
        if address != "/":
            expect(page.get_by_text("<img src=x onerror=alert(1)> **bold**").first).to_be_visible()
        assert page.locator("img[src='x']").count() == 0
    page.goto("/trace")
    page.get_by_role("textbox", name="Prompts").fill(HOSTILE)
    data = f'prompt,profile\n"{HOSTILE}",demo\n"x",{HOSTILE}\n'.encode()
    upload(page, "<b>x.csv", data)
    expect(page.get_by_text("1 prompt can be enqueued")).to_be_visible()
    assert page.locator("img[src='x']").count() == 0


def test_a_prompt_and_a_file_are_traced_by_a_worker_while_the_page_shows_how_far(page, home: Path, atlas: Atlas):
    page.goto("/trace")
    prompts = page.get_by_role("textbox", name="Prompts")
    prompts.fill("The opposite of hot is")
    page.get_by_role("button", name="Enqueue", exact=True).click()  # straight from the text: the click must not be lost
    page.wait_for_url("**/trace?job=*")
    (job,) = (row.id for row in atlas.jobs(state="queued"))
    expect(card(page, job)).to_have_attribute("data-state", "queued")
    expect(prompts).to_have_value("")
    with worker(home):
        expect(card(page, job)).to_have_attribute("data-state", "done", timeout=TRACED)
        expect(page.get_by_text("No worker is alive")).to_have_count(0)
        expect(card(page, job)).to_contain_text("test-worker")

        data = b"prompt,max_features\nThe opposite of cold is,\n\xe2\x80\x9cbad\xe2\x80\x9d,many\nThe opposite of up is,30\n"
        upload(page, "few.csv", data)
        expect(page.get_by_role("cell", name="Line 3")).to_be_visible()
        expect(page.get_by_text("2 prompts can be enqueued")).to_be_visible()
        page.get_by_role("button", name="Enqueue these, without the rows above").click()
        page.wait_for_url("**/trace?batch=few.csv*")
        bar = page.get_by_role("progressbar", name="progress of the batch")
        expect(bar).to_have_attribute("max", "2")
        expect(bar).to_have_attribute("value", "2", timeout=TRACED)
        expect(page.locator(".ca-job[data-state=done]")).to_have_count(2)
    page.get_by_role("link", name="The opposite of up is").click()
    expect(page.locator(".ca")).to_have_attribute("data-ready", "yes")
    expect(page.get_by_role("heading", name="the-opposite-of-up-is")).to_be_visible()
    page.goto("/news")
    expect(page.get_by_role("link", name="The opposite of hot is")).to_be_visible()
    page.get_by_role("button", name="Mark all as read").click()
    expect(page.get_by_text("Nothing since then")).to_be_visible()
