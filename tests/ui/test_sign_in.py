"""Signing in with a real browser on a server with accounts, and what ends it in mid-session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright import sync_api as playwright_api
from playwright.sync_api import BrowserContext, Page

from atlas import Atlas
from atlas.graph import embedded
from atlas.settings import Settings
from ui.run import end, launch

expect = playwright_api.expect
pytestmark = [pytest.mark.browser, pytest.mark.slow]
PASSWORD = "a long enough password"
HOSTILE = "<img src=x onerror=alert(1)> **b** :red[x]"
ELSEWHERE = "http://localhost:9/"  # another site, which the test answers itself
WAIT = 60_000  # ms; the machine may be busy


@dataclass
class Server:
    url: str
    home: Path
    atlas: Atlas


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Pages with accounts over an empty atlas: an admin, and one person for each test to do things to."""
    home = tmp_path_factory.mktemp("accounts") / "home"
    saved = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("ATLAS_")}
    with Atlas.open(settings=Settings(home=home, actor="tester")) as atlas:
        atlas.add_person("admin1", "admin", password=PASSWORD)
        atlas.add_person("reader1", password=PASSWORD)
        os.environ["ATLAS_ACCOUNTS"] = "true"  # by the setting, so that the log goes to a file
        process, url = launch(port=None, open_browser=False, home=home)
        del os.environ["ATLAS_ACCOUNTS"]
        os.environ.update(saved)
        yield Server(url, home, atlas)
        end(process)
    embedded.stop(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def context(browser, server: Server) -> Iterator[BrowserContext]:
    """A fresh browser that must end without a dialog, an error of a script, or a request to another host."""
    expect.set_options(timeout=WAIT)
    made = browser.new_context(base_url=server.url, viewport={"width": 1300, "height": 900})
    made.set_default_timeout(WAIT)
    trouble: list[str] = []
    made.on(
        "request",
        lambda r: None if r.url.startswith((server.url, ELSEWHERE, "data:", "blob:")) else trouble.append(r.url),
    )
    made.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    made.on("weberror", lambda error: trouble.append(str(error.error)))
    yield made
    made.close()
    assert not trouble


def fill(page: Page, name: str, secret: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password or access token").fill(secret)
    page.get_by_role("button", name="Sign in").click()


def signed_in(context: BrowserContext, name: str, secret: str = PASSWORD, address: str = "/people") -> Page:
    page = context.new_page()
    page.goto(address)
    fill(page, name, secret)
    expect(page.locator(".ca-account")).to_contain_text(name)
    return page


def run_again(page: Page) -> None:
    """Make Streamlit run the page again over the connection that is open."""
    page.get_by_text("Home", exact=True).first.click()


def cookie(context: BrowserContext) -> dict:
    return next(each for each in context.cookies() if each["name"] == "atlas-sign-in")


def test_a_stranger_sees_the_sign_in_page_only_and_a_wrong_secret_keeps_it_so(context, server: Server):
    page = context.new_page()
    for address in ("/", "/people?person=reader1", "/circuit", "/nothing"):
        page.goto(address)
        expect(page.get_by_role("button", name="Sign in")).to_be_visible()
        assert page.locator(".stApp").count() == 0
    fill(page, "reader1", "wrong password")
    expect(page.get_by_role("alert")).to_contain_text("is wrong")
    assert not [each for each in context.cookies() if each["name"] == "atlas-sign-in"]


def test_signing_in_leads_to_the_page_asked_for_and_a_reload_keeps_the_person(context, server: Server):
    page = signed_in(context, "reader1", address="/people?x=1")
    assert page.url == f"{server.url}/people?x=1"
    page.reload()
    expect(page.locator(".ca-account")).to_contain_text("reader1")
    page.goto("/news")
    expect(page.locator(".ca-account")).to_contain_text("reader1")


def test_no_script_can_read_the_cookie(context, server: Server):
    page = signed_in(context, "reader1")
    value = cookie(context)["value"]
    assert (cookie(context)["httpOnly"], cookie(context)["sameSite"]) == (True, "Strict")
    assert "atlas-sign-in" not in page.evaluate("document.cookie")
    assert value not in page.content()
    assert value not in page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")


def test_a_tampered_cookie_leads_back_to_the_sign_in(context, server: Server):
    page = signed_in(context, "reader1")
    good = cookie(context)
    for value in (good["value"][:-2] + "xx", "admin1", f"admin1.{good['value'].rpartition('.')[2]}"):
        context.add_cookies([{**good, "value": value}])
        page.goto("/people")
        expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    context.add_cookies([good])
    page.goto("/people")
    expect(page.locator(".ca-account")).to_contain_text("reader1")


def test_signing_out_ends_other_windows_too(context, server: Server):
    page = signed_in(context, "reader1")
    other = context.new_page()
    other.goto("/people")
    expect(other.locator(".ca-account")).to_contain_text("reader1")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")
    run_again(other)
    expect(other.get_by_role("alert")).to_contain_text("Your sign-in has ended.")
    expect(other.locator(".ca-account")).to_have_count(0)
    other.get_by_role("link", name="Sign in").click()
    expect(other.get_by_role("button", name="Sign in")).to_be_visible()


def test_a_revoked_token_ends_the_session_at_its_next_run_with_one_sentence(context, server: Server):
    server.atlas.add_person("reader2")
    token = server.atlas.new_token("reader2", name="browser")
    page = signed_in(context, "reader2", token.secret)
    server.atlas.revoke_token(token.id)
    run_again(page)
    expect(page.get_by_role("alert")).to_contain_text("The access token 'browser' was revoked.")
    expect(page.get_by_text("What is new")).to_have_count(0)
    expect(page.get_by_text("Traceback")).to_have_count(0)
    page.goto("/people")
    fill(page, "reader2", token.secret)
    expect(page.get_by_role("alert")).to_contain_text("revoked")


def test_a_disabled_person_is_out_at_the_next_run_also_in_a_part_that_runs_alone(context, server: Server):
    server.atlas.add_person("reader3", password=PASSWORD)
    page = signed_in(context, "reader3", address="/jobs")  # looks again by itself every few seconds
    expect(page.locator(".ca-title")).to_be_visible()
    server.atlas.change_person("reader3", disabled=True)
    expect(page.get_by_role("alert").first).to_contain_text("The account 'reader3' is disabled.")


def test_a_reader_is_offered_no_way_to_write_and_an_editor_demoted_meanwhile_is_refused(context, server: Server):
    server.atlas.add_person("editor4", "editor", password=PASSWORD)
    page = signed_in(context, "editor4", address="/trace")
    page.get_by_role("textbox", name="Prompt").first.fill("The capital of France is")
    button = page.get_by_role("button", name="Enqueue")
    expect(button).to_be_enabled()
    server.atlas.change_person("editor4", role="reader")
    button.click()
    expect(page.get_by_text("Your role is reader")).to_be_visible()
    expect(page.get_by_role("button", name="Enqueue")).to_be_disabled()
    assert server.atlas.jobs(author="editor4") == []


def test_the_actor_is_who_signed_in_whatever_the_page_says(context, server: Server):
    server.atlas.add_person("editor5", "editor", password=PASSWORD)
    page = signed_in(context, "editor5", address="/trace?actor=admin1&person=admin1&author=admin1")
    page.get_by_role("textbox", name="Prompt").first.fill("The opposite of hot is")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.get_by_text("waiting").first).to_be_visible()
    page.wait_for_url("**/trace?**job=**")
    assert [job.author for job in server.atlas.jobs()] == ["editor5"]


def test_people_make_and_revoke_their_own_tokens_and_see_nobody_elses(context, server: Server):
    server.atlas.new_token("admin1", name="of the admin")
    page = signed_in(context, "reader1", address="/people?person=admin1")
    page.get_by_label("Name of a new token").fill(HOSTILE)
    page.get_by_role("button", name="New token").click()
    expect(page.get_by_text("Copy it now")).to_be_visible()
    secret = page.locator("[data-testid=stCode]").inner_text().strip()
    assert secret.startswith("atlas_")
    expect(page.get_by_text(HOSTILE)).to_be_visible()
    assert page.locator("img[src='x']").count() == 0
    for text in ("Everybody", "Add somebody", "of the admin", "admin1"):
        expect(page.get_by_text(text)).to_have_count(0)
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("status")).to_contain_text("revoked")
    expect(page.get_by_text(secret)).to_have_count(0)


def test_an_admin_adds_somebody_who_signs_in_with_the_token_made(context, browser, server: Server):
    page = signed_in(context, "admin1")
    page.get_by_text("Add somebody").click()
    page.get_by_label("Name", exact=True).fill(HOSTILE)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
    page.get_by_role("button", name="New token").nth(1).click()
    secret = page.locator("[data-testid=stCode]").inner_text().strip()
    assert page.locator("img[src='x']").count() == 0
    with browser.new_context(base_url=server.url) as other:
        reader = other.new_page()
        reader.set_default_timeout(WAIT)
        reader.goto("/people")
        fill(reader, HOSTILE, secret)
        expect(reader.locator(".ca-account")).to_contain_text(HOSTILE)
        assert reader.locator("img[src='x']").count() == 0
        page.get_by_role("button", name="Disable this account").click()
        expect(page.get_by_role("status")).to_contain_text("Disabled")
        run_again(reader)
        expect(reader.get_by_role("alert")).to_contain_text("is disabled")


def test_one_changes_ones_own_password_by_the_old_one(context, server: Server):
    server.atlas.add_person("reader6", password=PASSWORD)
    page = signed_in(context, "reader6")

    def change(old: str, new: str) -> None:
        page.get_by_label("Password now").fill(old)
        page.get_by_label("New password", exact=True).fill(new)
        page.get_by_label("New password again").fill(new)
        page.get_by_role("button", name="Change password").click()

    change("not the old one", "another long password")
    expect(page.get_by_role("alert")).to_contain_text("The password now is another.")
    change(PASSWORD, "another long password")
    expect(page.get_by_role("alert")).to_contain_text("Your sign-in has ended.")
    page.goto("/people")
    fill(page, "reader6", "another long password")
    expect(page.locator(".ca-account")).to_contain_text("reader6")


def test_another_site_cannot_use_the_sign_in(context, server: Server):
    page = signed_in(context, "reader1")
    host = server.url.removeprefix("http://")
    elsewhere = context.new_page()
    elsewhere.route(f"{ELSEWHERE}**", lambda route: route.fulfill(content_type="text/html", body="<p>elsewhere"))
    elsewhere.goto(ELSEWHERE)
    opened = elsewhere.evaluate(
        "host => new Promise(done => { const s = new WebSocket(`ws://${host}/_stcore/stream`, ['streamlit']);"
        " s.onopen = () => done('open'); s.onerror = () => done('refused'); })",
        host,
    )
    assert opened == "refused"
    answer = elsewhere.evaluate(
        "url => fetch(`${url}/auth/logout`, {method: 'POST', mode: 'no-cors', credentials: 'include',"
        " headers: {'content-type': 'application/x-www-form-urlencoded'}}).then(() => 'sent', () => 'refused')",
        server.url,
    )
    assert answer in {"sent", "refused"}
    page.reload()
    expect(page.locator(".ca-account")).to_contain_text("reader1")


def test_the_verbs_take_a_token_and_the_cookie_from_our_own_pages_only(context, server: Server):
    page = signed_in(context, "reader1")
    assert context.request.get("/api/v1/about").status == 403  # no page of ours
    assert context.request.get("/api/v1/about", headers={"origin": "http://localhost:9"}).status == 403
    token = server.atlas.new_token("reader1").secret
    answer = context.request.get("/api/v1/about", headers={"authorization": f"Bearer {token}"})
    assert answer.json()["person"]["name"] == "reader1"
    asked = "fetch('/api/v1/add_person', {method: 'POST', headers: {'content-type': 'application/json'}, body: '{\"name\": \"x\"}'})"
    assert page.evaluate(f"{asked}.then(answer => answer.status)") in {403, 404}
    assert "x" not in {row.name for row in server.atlas.people()}


def test_no_log_has_a_secret(server: Server):
    log = (server.home / "ui.log").read_text(encoding="utf-8")
    assert PASSWORD not in log
    assert "atlas_" not in log
