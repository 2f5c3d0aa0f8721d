"""The sign-in page and the routes behind it: plain HTML without scripts, so that it works before anything is loaded."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from atlas import authentication
from atlas.api import Atlas
from atlas.errors import AccessDenied, AtlasError
from ui import PAGES, cookies, markup

log = logging.getLogger(__name__)
LARGEST_FORM = 16 * 1024  # bytes
_QUERY = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?%-]{0,4000}")
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
}
STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 22%, transparent); --accent: light-dark(#2563c9, #6ea3f5); }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem; background: light-dark(#f6f7f9, #0e1117);
  color: light-dark(#22262e, #e8eaee); font: 16px/1.45 system-ui, sans-serif; }
main { width: 100%; max-width: 23rem; padding: 2rem; border: 1px solid var(--line); border-radius: 12px; background: light-dark(#fff, #171b23); }
h1 { margin: 0 0 0.2rem; font-size: 1.35rem; font-weight: 650; }
main > p { margin: 0 0 1.2rem; opacity: 0.75; }
label { display: block; margin: 0.9rem 0 0.25rem; font-size: 0.9rem; font-weight: 550; }
input { width: 100%; padding: 0.55rem 0.7rem; font: inherit; color: inherit; background: transparent; border: 1px solid var(--line); border-radius: 7px; }
input:focus-visible, button:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
button { width: 100%; margin-top: 1.4rem; padding: 0.6rem; font: inherit; font-weight: 600; color: light-dark(#fff, #10141b); background: var(--accent);
  border: 0; border-radius: 7px; cursor: pointer; }
.alert { margin: 1rem 0 0; padding: 0.6rem 0.8rem; border-left: 4px solid #d2661a; border-radius: 4px;
  background: color-mix(in srgb, #d2661a 11%, transparent); overflow-wrap: anywhere; }
.alert span { display: block; opacity: 0.85; }
a { color: var(--accent); }
"""


def own_address(text: str | None) -> str:
    """Where to go after signing in: an address of one of our pages as it is, "/" for anything else."""
    try:
        parts = urlsplit(text or "")
    except ValueError:
        return "/"
    path = parts.path
    if parts.scheme or parts.netloc or path not in {f"/{page}" for page in PAGES} or not _QUERY.fullmatch(parts.query):
        return "/"
    return f"{path}?{parts.query}" if parts.query else path


def page_html(next_page: str, name: str = "", error: AtlasError | None = None) -> str:
    alert = (
        [markup.tag("div", error.message, markup.tag("span", error.hint), cls="alert", role="alert")] if error else []
    )
    form = markup.tag(
        "form",
        markup.tag("label", "Name", **{"for": "name"}),
        _input("name", "text", "username", value=name, focus=not name),
        markup.tag("label", "Password or access token", **{"for": "secret"}),
        _input("secret", "password", "current-password", focus=bool(name)),
        _input("next", "hidden", "off", value=next_page),
        markup.tag("button", "Sign in", type="submit"),
        method="post",
        action="/auth/login",
    )
    told = markup.tag("p", "Sign in to this group's atlas.")
    return _document("Sign in", markup.tag("h1", "Circuit Atlas"), told, *alert, form)


def going_on(address: str) -> str:
    """A page of this site that loads another: browsers send the cookie with that, but not with a link from elsewhere."""
    refresh = markup.Safe(f'<meta http-equiv="refresh" content="0; url={markup.esc(address)}">')
    return _document("Circuit Atlas", markup.tag("p", markup.tag("a", "Go on", href=address)), head=refresh)


def routes(get: Callable[[], Atlas]) -> list[Route]:
    """`get` gives the atlas of this server, without a person."""

    async def show(request: Request) -> Response:
        return HTMLResponse(page_html(own_address(request.query_params.get("next"))), headers=HEADERS)

    async def sign_in(request: Request) -> Response:
        form = await _form(request)
        if isinstance(form, Response):
            return form
        name, secret = form.get("name", ""), form.get("secret", "")
        next_page = own_address(form.get("next"))
        try:
            sign_in_id = await run_in_threadpool(_signed_in, get(), name, secret, _cookie(request, get()))
        except AtlasError as error:
            log.info("sign-in refused: %s", error.message)
            status = 403 if isinstance(error, AccessDenied) else 503
            return HTMLResponse(page_html(next_page, name[:64], error), status, headers=HEADERS)
        settings = get().settings
        response = RedirectResponse(next_page, 303, headers={"cache-control": "no-store"})
        response.set_cookie(
            cookies.name(settings.https),
            cookies.seal(authentication.cookie_secret(get()), sign_in_id),
            max_age=authentication.SIGN_IN_DAYS * 86400,
            path="/",
            httponly=True,
            samesite="strict",
            secure=settings.https,
        )
        return response

    async def sign_out(request: Request) -> Response:
        form = await _form(request)
        if isinstance(form, Response):
            return form
        sign_in_id = cookies.unseal(authentication.cookie_secret(get()), _cookie(request, get()))
        if sign_in_id is not None:
            await run_in_threadpool(authentication.sign_out, get(), sign_in_id)
        https = get().settings.https
        response = RedirectResponse("/sign-in", 303, headers={"cache-control": "no-store"})
        response.delete_cookie(cookies.name(https), path="/", httponly=True, samesite="strict", secure=https)
        return response

    return [
        Route("/sign-in", show, methods=["GET"]),
        Route("/auth/login", sign_in, methods=["POST"]),
        Route("/auth/logout", sign_out, methods=["POST"]),
    ]


def to_sign_in(address: str) -> str:
    own = own_address(address)
    return "/sign-in" if own == "/" else f"/sign-in?{urlencode({'next': own})}"


def _signed_in(atlas: Atlas, name: str, secret: str, old_cookie: str | None) -> str:
    """Always a new sign-in; the one that the browser had ends."""
    sign_in_id, _ = authentication.sign_in(atlas, name, secret)
    old = cookies.unseal(authentication.cookie_secret(atlas), old_cookie)
    if old is not None:
        authentication.sign_out(atlas, old)
    return sign_in_id


def _cookie(request: Request, atlas: Atlas) -> str | None:
    return request.cookies.get(cookies.name(atlas.settings.https))


async def _form(request: Request) -> dict[str, str] | Response:
    """The fields of a form that one of our own pages sent, or what refuses it."""
    origin = request.headers.get("origin", "")
    if urlsplit(origin).netloc != request.headers.get("host") or not origin.startswith(("http://", "https://")):
        return PlainTextResponse("This form was not sent by a page of this server.", 403)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return PlainTextResponse("This is not a form.", 415)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_FORM:
            return PlainTextResponse("The form is too large.", 413, headers={"connection": "close"})
    try:
        fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=10, errors="strict")
    except ValueError:
        return PlainTextResponse("This form cannot be read.", 400)
    return {key: values[0] for key, values in fields.items()}


def _input(name: str, kind: str, autocomplete: str, value: str = "", focus: bool = False) -> markup.Safe:
    rest = "" if kind == "hidden" else f' id="{name}" autocomplete="{autocomplete}" required' + " autofocus" * focus
    return markup.Safe(f'<input name="{name}" type="{kind}" value="{markup.esc(value)}"{rest}>')


def _document(title: str, *body: markup.Safe, head: str = "") -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{markup.esc(title)} · Circuit Atlas</title>'
        f"{head}<style>{STYLE}</style></head><body>{markup.tag('main', *body)}</body></html>"
    )
