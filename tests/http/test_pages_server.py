"""The verbs on the pages' server: the cookie of a sign-in counts there, from pages of the same site only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import httpx
import pytest

from tests.http.conftest import Served, start

pytestmark = [pytest.mark.embedded, pytest.mark.slow]
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def site(served: Served) -> Iterator[str]:
    served.local.add_person("browser1", "editor", PASSWORD)
    process, url = start(settings=served.settings)
    yield url
    process.terminate()
    assert process.wait(30) == 0


@pytest.fixture
def browser(site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site, trust_env=False, timeout=60) as client:
        answer = client.post("/auth/login", data={"name": "browser1", "secret": PASSWORD}, headers={"Origin": site})
        assert answer.status_code == 303, answer.text
        yield client


def who(client: httpx.Client, **headers: str) -> httpx.Response:
    return client.post("/api/v1/whoami", json={}, headers=headers)


def test_the_cookie_counts_for_pages_of_this_site_alone(browser, site) -> None:
    assert who(browser, Origin=site).json()["name"] == "browser1"
    for origin in (
        {},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": f"{site}.elsewhere.example"},
    ):
        answer = who(browser, **origin)
        assert answer.status_code in {401, 403}, origin
        assert "browser1" not in answer.text


def test_a_forged_or_ended_cookie_counts_for_nobody(browser, site) -> None:
    (name, value), *_ = browser.cookies.items()
    # not the last character: two of its bits belong to no byte, so that another one may be the same signature
    wrong = value[:-10] + ("A" if value[-10] != "A" else "B") + value[-9:]
    for forged in (wrong, "admin1", "admin1." + value.split(".")[-1], value.split(".")[0], "", "x" * 5000):
        with httpx.Client(
            base_url=site, trust_env=False, timeout=60, headers={"Cookie": f"{name}={forged}", "Origin": site}
        ) as other:
            assert who(other).status_code == 401, forged[:20]
    assert browser.post("/auth/logout", data={"leave": "yes"}, headers={"Origin": site}).status_code == 303
    ours = {"Cookie": f"{name}={value}", "Origin": site}
    with httpx.Client(base_url=site, trust_env=False, timeout=60, headers=ours) as late:
        assert who(late).status_code == 401


def test_a_bad_token_is_not_saved_by_a_good_cookie(browser, site) -> None:
    assert who(browser, Origin=site, Authorization="Bearer nonsense").status_code == 401


def test_tokens_and_mcp_work_beside_the_pages(site, served) -> None:
    headers = {"Authorization": f"Bearer {served.tokens['reader']}"}
    with httpx.Client(base_url=site, trust_env=False, timeout=60, headers=headers) as client:
        assert who(client).json()["name"] == "reader1"
        asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "concepts", "arguments": {}}}
        answer = client.post("/mcp", json=asked, headers={"Accept": "application/json, text/event-stream"})
        assert answer.status_code == 200, answer.text
        assert not answer.json()["result"].get("isError")


@pytest.mark.browser
def test_the_page_about_the_api_needs_no_other_host_and_no_script(site) -> None:
    from playwright.sync_api import sync_playwright

    from tests.ui.conftest import ARGUMENTS

    place = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert place, "Chromium is not installed; set CHROMIUM to its path"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=place, args=ARGUMENTS)
        page = browser.new_page()
        asked: list[str] = []
        failed: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: failed.append(message.text))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(f"{site}/api/docs")
        assert page.locator("section#search h3").inner_text() == "POST /api/v1/search"
        assert page.locator("section#search td").first.inner_text() == "text"
        assert page.evaluate("getComputedStyle(document.querySelector('h3')).fontFamily").startswith("ui-monospace")
        page.get_by_role("link", name="paths", exact=True).click()
        assert page.url.endswith("#paths")
        assert page.locator("a[href='openapi.json']").count() == 1
        browser.close()
    assert {url.split("/api/")[0] for url in asked if not url.startswith("data:")} == {site}
    assert not failed
