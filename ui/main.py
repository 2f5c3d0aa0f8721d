"""The application: pages and their order. Streamlit runs this file (`ui.run.launch`)."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

PAGES = Path(__file__).parent / "pages"
# Home is the default page and so has no address of its own
ORDER = ("home", "search", "feature", "circuit", "paths", "compare", "cypher")

st.set_page_config(page_title="Circuit Atlas", layout="wide")
st.navigation(
    [st.Page(PAGES / f"{name}.py", title=name.capitalize(), url_path=name, default=name == "home") for name in ORDER]
).run()
