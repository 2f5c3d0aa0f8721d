"""Hostile tries on the routes around the pages: none gets through. Without Streamlit, whose place a page of secrets takes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import ui
from atlas import Atlas, credentials
from atlas.authentication import cookie_secret
from atlas.settings import Settings
from ui import cookies, sign_in
from ui.gate import Gate

PASSWORD = "a long enough password"
SITE = "http://atlas.example"
PAGE = {"accept": "text/html"}
OWN = {"origin": SITE}
COOKIE = cookies.name(https=False)


@pytest.fixture(autouse=True)
def _cheap_hashing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(credentials, "_HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    credentials._nobody.cache_clear()
    yield
    credentials._nobody.cache_clear()


@pytest.fixture
def atlas(settings: Settings) -> Iterator[Atlas]:
    with Atlas.open(settings=settings.model_copy(update={"accounts": True})) as opened:
        opened.add_person("admin1", "admin", password=PASSWORD)
        opened.add_person("reader1", password=PASSWORD)
        yield opened


def site(atlas: Atlas, accounts: bool = True, address: str = SITE) -> TestClient:
    async def page(request):
        return PlainTextResponse("SECRET")

    async def stream(websocket):
        await websocket.accept()
        await websocket.send_text("SECRET")
        await websocket.close()

    routes = [*sign_in.routes(lambda: atlas), WebSocketRoute("/_stcore/stream", stream)]
    routes.append(Route("/{path:path}", page, methods=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]))
    gate = Middleware(Gate, get=lambda: atlas, accounts=accounts)
    return TestClient(Starlette(routes=routes, middleware=[gate]), base_url=address, follow_redirects=False)


@pytest.fixture
def visitor(atlas: Atlas) -> TestClient:
    return site(atlas)


def signed_in(atlas: Atlas, name: str = "reader1") -> TestClient:
    client = site(atlas)
    assert client.post("/auth/login", data={"name": name, "secret": PASSWORD}, headers=OWN).status_code == 303
    return client


PATHS = [
    "/", "/circuit", "/circuit?circuit=c1-x", "/people", "/media/x.csv", "/_stcore/upload_file/a/b", "/_stcore/host-config",
    "/_stcore/metrics", "/_stcore/agent/mcp", "/_stcore/bidi-components/x", "//static/x", "/static", "/Static/x", "/api",
    "/apix", "/sign-in/", "/sign-in/../people", "/auth/login/../../people", "/healthz/x", "/%2e%2e/people", "/_stcore/health/",
]  # fmt: skip


def test_nothing_is_shown_without_a_sign_in(visitor: TestClient):
    for method, path in itertools.product(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"), PATHS):
        for headers in (
            PAGE,
            {},
            OWN,
            {"x-forwarded-user": "admin1", "x-remote-user": "admin1", "authorization": "Basic eDp4"},
        ):
            answer = visitor.request(method, path, headers=headers)
            assert "SECRET" not in answer.text, path
            assert answer.status_code in {303, 401, 403, 404, 405}, path


def test_a_page_leads_to_the_sign_in_and_back(atlas: Atlas, visitor: TestClient):
    answer = visitor.get("/circuit?circuit=c1-x&node=a%2Fb", headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        "/sign-in?next=%2Fcircuit%3Fcircuit%3Dc1-x%26node%3Da%252Fb",
    )
    form = visitor.get(answer.headers["location"]).text
    next_page = re.search(r'name="next" type="hidden" value="([^"]*)"', form).group(1).replace("&amp;", "&")
    answer = visitor.post("/auth/login", data={"name": "reader1", "secret": PASSWORD, "next": next_page}, headers=OWN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/circuit?circuit=c1-x&node=a%2Fb")
    assert visitor.get("/circuit").text == "SECRET"


def test_the_cookie_is_for_this_site_and_no_script(atlas: Atlas, visitor: TestClient):
    given = visitor.post("/auth/login", data={"name": "reader1", "secret": PASSWORD}, headers=OWN).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in given.split(";")}
    assert "Domain" not in given
    assert "reader1" not in given
    atlas.settings.https = True
    safe = site(atlas, address="https://atlas.example")
    given = safe.post(
        "/auth/login", data={"name": "reader1", "secret": PASSWORD}, headers={"origin": "https://atlas.example"}
    )
    assert given.headers["set-cookie"].startswith("__Host-")
    assert "Secure" in given.headers["set-cookie"]
    assert safe.get("/").text == "SECRET"


def test_forged_and_tampered_cookies_are_refused(atlas: Atlas):
    good = signed_in(atlas).cookies[COOKIE]
    sign_in_id, _, signature = good.rpartition(".")
    other = signed_in(atlas, "admin1").cookies[COOKIE]
    forged = [
        "", "x", good[:-1], good + "x", good.upper(), sign_in_id, f"{sign_in_id}.", f".{signature}", f"admin1.{signature}",
        f"{other.rpartition('.')[0]}.{signature}", cookies.seal(b"", sign_in_id), cookies.seal(b"guessed", "admin1"),
        cookies.seal(cookie_secret(atlas), "admin1"), cookies.seal(cookie_secret(atlas), "' OR 1=1 --"),
        cookies.seal(cookie_secret(atlas), credentials.digest(sign_in_id)), "x" * 100_000, "%00", "..", "null",
    ]  # fmt: skip
    for value in forged:
        answer = site(atlas).get("/", headers={"cookie": f"{COOKIE}={value}"})
        assert (answer.status_code, "SECRET" in answer.text) == (401, False), value[:80]
    for header in (
        f"__Host-atlas-sign-in={good}",
        f"_streamlit_user={good}",
        f"x={good}",
        f"{COOKIE}=x; {COOKIE.upper()}={good}",
    ):
        assert site(atlas).get("/", headers={"cookie": header}).status_code == 401
    for raw in (b"\xff\xfe", b"\xc3\xbc.x"):
        assert site(atlas).get("/", headers=[(b"cookie", COOKIE.encode() + b"=" + raw)]).status_code == 401
    assert site(atlas).get("/", headers={"cookie": f"{COOKIE}={good}"}).text == "SECRET"


def test_forms_of_other_sites_are_refused(atlas: Atlas, visitor: TestClient):
    form = {"name": "reader1", "secret": PASSWORD}
    others = [
        None, "null", "", "http://evil.example", "http://atlas.example.evil.example", "http://evil.example/http://atlas.example",
        "http://atlas.example:81", "http://atlas.example@evil.example", "javascript://atlas.example", "file://", "atlas.example",
        "http://ATLAS.example.", "http://127.0.0.1", "http://localhost",
    ]  # fmt: skip
    for origin in others:
        headers = {"referer": f"{SITE}/sign-in"} | ({"origin": origin} if origin is not None else {})
        answer = visitor.post("/auth/login", data=form, headers=headers)
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False), origin
    inside = signed_in(atlas)
    for origin in others:
        assert inside.post("/auth/logout", headers={"origin": origin} if origin is not None else {}).status_code == 403
    assert inside.get("/").text == "SECRET"


def test_forms_that_are_none_or_too_large_are_refused(atlas: Atlas, visitor: TestClient):
    kind = {"content-type": "application/x-www-form-urlencoded"}
    for content, headers, status in [
        (b"name=reader1&secret=" + b"x" * 20_000, kind, 413),
        (b"x" * 5_000_000, kind, 413),
        (b"&".join(b"a=b" for _ in range(50)), kind, 400),
        (b"name=\xff&secret=x", kind, 400),
        (b"", kind, 403),
        (b'{"name": "reader1"}', {"content-type": "application/json"}, 415),
        (b"name=reader1", {"content-type": "text/plain"}, 415),
        (b"name=reader1", {"content-type": "multipart/form-data; boundary=x"}, 415),
    ]:
        answer = visitor.post("/auth/login", content=content, headers=OWN | headers)
        assert (answer.status_code, "set-cookie" in answer.headers) == (status, False), content[:40]

    def endless():
        for _ in range(1000):
            yield b"x" * 1000

    assert visitor.post("/auth/login", content=endless(), headers=OWN | kind).status_code == 413
    assert visitor.get("/auth/login", params={"name": "reader1", "secret": PASSWORD}).status_code != 303


NEXT = [
    "//evil.example", "/\\evil.example", "\\\\evil.example", "http://evil.example/", "https:evil.example", "javascript:alert(1)",
    "/people//evil.example", "/circuit/../../evil", "data:text/html,x", "///evil.example/people", "/people\r\nset-cookie: a=b",
    "/circuit?\r\nx: y", "/circuit?x=<script>", "/auth/logout", "/api/v1/about", "%2f%2fevil.example", "/circuit\x00", " /people",
    "http://[::1", "/circuit?" + "x" * 5000, "people", "/%2f/evil.example", "\t//evil.example",
]  # fmt: skip


def test_signing_in_leads_to_our_own_pages_only(atlas: Atlas, visitor: TestClient):
    for wanted in NEXT:
        answer = visitor.post("/auth/login", data={"name": "reader1", "secret": PASSWORD, "next": wanted}, headers=OWN)
        assert re.fullmatch(r"/[a-z]*(\?[!-~]*)?", answer.headers["location"]), wanted
        assert "evil" not in answer.headers["location"], wanted
        form = visitor.get("/sign-in", params={"next": wanted}).text
        assert "evil" not in form, wanted
        assert "<script" not in form, wanted


def test_markup_in_names_and_addresses_stays_text(atlas: Atlas, visitor: TestClient):
    name = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    answer = visitor.post("/auth/login", data={"name": name, "secret": "x" * 12}, headers=OWN)
    assert answer.status_code == 403
    assert "<script" not in answer.text
    assert "<img" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_a_sign_in_is_new_each_time_and_the_one_before_ends(atlas: Atlas):
    client = site(atlas)
    client.cookies.set(COOKIE, "planted.by-somebody")
    client.post(
        "/auth/login", data={"name": "reader1", "secret": PASSWORD}, headers=OWN | {"cookie": f"{COOKIE}=planted"}
    )
    client.cookies.clear()
    first = signed_in(atlas)
    old = first.cookies[COOKIE]
    assert old != "planted.by-somebody"
    first.post("/auth/login", data={"name": "reader1", "secret": PASSWORD}, headers=OWN)
    assert first.cookies[COOKIE] != old
    assert site(atlas).get("/", headers={"cookie": f"{COOKIE}={old}"}).status_code == 401


def test_after_signing_out_the_cookie_is_worth_nothing(atlas: Atlas):
    client = signed_in(atlas)
    kept = client.cookies[COOKIE]
    answer = client.post("/auth/logout", data={}, headers=OWN)
    if answer.status_code == 415:
        answer = client.post(
            "/auth/logout", content=b"", headers=OWN | {"content-type": "application/x-www-form-urlencoded"}
        )
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert COOKIE not in client.cookies
    assert site(atlas).get("/", headers={"cookie": f"{COOKIE}={kept}"}).status_code == 401


def test_who_is_disabled_or_whose_token_is_revoked_is_out_at_the_next_request(atlas: Atlas):
    by_password = signed_in(atlas)
    token = atlas.new_token("admin1")
    by_token = site(atlas)
    by_token.post("/auth/login", data={"name": "admin1", "secret": token.secret}, headers=OWN)
    assert by_password.get("/").text == by_token.get("/").text == "SECRET"
    atlas.change_person("reader1", disabled=True)
    atlas.revoke_token(token.id)
    assert "disabled" in by_password.get("/").text
    assert "revoked" in by_token.get("/").text


def test_the_websocket_is_for_our_own_pages_and_people_who_signed_in(atlas: Atlas, visitor: TestClient):
    def opens(client: TestClient, headers: dict[str, str]) -> bool:
        try:
            with client.websocket_connect("/_stcore/stream", headers=headers) as websocket:
                return websocket.receive_text() == "SECRET"
        except WebSocketDisconnect:
            return False

    inside = signed_in(atlas)
    host = {"host": "atlas.example", "cookie": f"{COOKIE}={inside.cookies[COOKIE]}"}
    assert opens(visitor, host | OWN)
    for origin in (
        "http://evil.example",
        "null",
        "http://localhost",
        "http://127.0.0.1:8501",
        "http://atlas.example:81",
    ):
        assert not opens(visitor, host | {"origin": origin}), origin
    assert not opens(site(atlas), {"host": "atlas.example"} | OWN)
    assert not opens(site(atlas), {"host": "atlas.example", "cookie": f"{COOKIE}=forged.x"} | OWN)


def test_a_link_from_another_site_finds_the_reader_still_signed_in(atlas: Atlas, visitor: TestClient):
    cross = PAGE | {"sec-fetch-site": "cross-site"}
    answer = visitor.get("/circuit?circuit=c1-x", headers=cross)  # browsers leave a strict cookie out here
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/circuit?circuit=c1-x">' in answer.text
    for path in ("//evil.example/x", "/media/x", "/\\evil.example", '/circuit?"><script>alert(1)</script>'):
        answer = visitor.get(path, headers=cross)
        assert "SECRET" not in answer.text
        assert 'url=/">' in answer.text or "<script" not in answer.text
        assert "evil" not in answer.text


def test_without_accounts_this_machine_is_answered_by_its_own_names_only(atlas: Atlas):
    laptop = site(atlas, accounts=False, address="http://127.0.0.1:8501")
    others = ("evil.example", "atlas.example:8501", "127.0.0.1.evil.example", "localhost.evil", "[::2]", "", "[")
    for host in others:
        answer = laptop.get("/", headers={"host": host})
        assert (answer.status_code, "SECRET" in answer.text) == (421, False), host
    for host in ("127.0.0.1:8501", "localhost:8501", "localhost", "[::1]:8501", "LOCALHOST:1"):
        assert laptop.get("/", headers={"host": host}).text == "SECRET", host


def test_every_answer_forbids_framing_by_others(atlas: Atlas, visitor: TestClient):
    for answer in (visitor.get("/", headers=PAGE), visitor.get("/sign-in"), signed_in(atlas).get("/")):
        assert "frame-ancestors" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_no_page_goes_around_the_look_at_who_is_signed_in():
    folder = Path(ui.__file__).parent
    own = {"shared.py", "asgi.py"}
    for file in [*folder.glob("*.py"), *folder.glob("pages/*.py"), *folder.glob("app/*.py")]:
        text = file.read_text(encoding="utf-8")
        if file.name not in own:
            assert "@st.fragment" not in text, file
            assert "server_atlas" not in text, file
            assert "= Atlas.open" not in text, file
