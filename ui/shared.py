"""What every page needs: the one atlas of this server, errors in two sentences, the address."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import streamlit as st

from atlas.api import Atlas
from atlas.errors import AccessDenied, AtlasError
from atlas.settings import load_settings
from ui import auth, markup

log = logging.getLogger(__name__)


@st.cache_resource(show_spinner=False)
def _open(home: str, catalog_url: str, graph_url: str) -> Atlas:
    atlas = Atlas.open()
    threading.Thread(target=_warm, args=(atlas,), daemon=True).start()
    return atlas


def _warm(atlas: Atlas) -> None:
    """Start the graph server and load the encoder while the first reader still reads; failures show where they matter."""
    with contextlib.suppress(AtlasError):
        if not atlas.overview().circuits:
            return
        atlas.graph  # noqa: B018
        atlas.encoder  # noqa: B018


def server_atlas() -> Atlas:
    """The atlas that the settings name, of this server: nobody's, so not for pages."""
    settings = load_settings()
    return _open(str(settings.home), settings.catalog_url, settings.graph_url)


def get_atlas() -> Atlas:
    """The atlas for whoever reads: with accounts the person signed in, looked up anew, else the local one.

    Ends the page with the way in for anybody who is not, or no longer, signed in.
    """
    atlas = server_atlas()
    if not atlas.settings.accounts:
        return atlas
    try:
        return auth.person_at(atlas)
    except AccessDenied as error:
        auth.way_in(error)
        st.stop()


def fragment(function: Callable[..., None] | None = None, *, run_every: str | None = None) -> Any:
    """`st.fragment`, which reruns a part of a page alone, with a look first whether the reader is still signed in.

    Everything else a page does goes through `get_atlas` at each run; a fragment may still hold what it gave before.
    """
    if function is None:
        return functools.partial(fragment, run_every=run_every)

    @st.fragment(run_every=run_every)
    @functools.wraps(function)
    def looked_up(*arguments: Any, **named: Any) -> None:
        with guarded():
            get_atlas()
        function(*arguments, **named)

    return looked_up


def show(*pieces: object) -> None:
    """Write HTML pieces; text that is not `Safe` is escaped."""
    st.html("".join(markup.esc(piece) for piece in pieces))


def note(text: object) -> None:
    show(markup.tag("p", markup.ticked(text), cls="ca-note"))


def heading(text: object) -> None:
    show(markup.tag("h3", text, cls="ca-sub"))


def problem(error: AtlasError) -> None:
    hint = [markup.tag("p", markup.ticked(error.hint))] if error.hint else []
    show(markup.tag("div", markup.tag("p", markup.ticked(error.message)), *hint, cls="ca-alert", role="alert"))


def tell_once(key: str) -> None:
    """Show what an earlier run left in the session under `key`, a sentence or an error, and forget it."""
    told = st.session_state.pop(key, None)
    if isinstance(told, AtlasError):
        problem(told)
    elif told:
        show(markup.tag("p", told, cls="ca-line", role="status"))


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """A failure that the reader can mend is shown as its two sentences and ends the page there."""
    try:
        yield
    except AtlasError as error:
        log.info("shown to the reader: %s", error)
        problem(error)
        st.stop()


def begin(title: object = None) -> None:
    """Style of a page, and its heading unless the page has a better one of its own."""
    st.html(markup.css() + markup.follow_links(), unsafe_allow_javascript=True)
    if title:
        show(markup.tag("h1", title, cls="ca-title"))


def asked(name: str) -> str:
    """One value of the address, '' when absent."""
    return str(st.query_params.get(name, "")).strip()


def remember(**values: str | None) -> None:
    """Write the address so that reloading or sharing it shows the same; empty values are left out."""
    st.query_params.from_dict({key: value for key, value in values.items() if value})
