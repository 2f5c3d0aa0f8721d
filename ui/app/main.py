"""The application: pages and their order. Streamlit runs this file (`ui.run.launch`).

It has a folder of its own because Streamlit takes a `pages` folder beside the file it runs for a navigation of its own, which
would answer the first request of an address such as /circuit.
"""

from __future__ import annotations

from importlib.resources import files

import streamlit as st

from ui import SECTIONS, TITLES
from ui.auth import account_bar, current_user
from ui.shared import guarded


def page(name: str) -> st.Page:
    """Home is the default page and so has no address of its own."""
    title = TITLES.get(name, name.capitalize())
    return st.Page(str(files("ui") / "pages" / f"{name}.py"), title=title, url_path=name, default=name == "home")


st.set_page_config(page_title="Circuit Atlas", layout="wide")
with guarded():
    person = current_user()
if person is not None:
    account_bar(person)
hidden = set() if person is not None else {"people"}  # a laptop has no accounts
st.navigation(
    {section: [page(name) for name in names if name not in hidden] for section, names in SECTIONS.items()},
    position="top",  # the canvas needs the width
).run()
