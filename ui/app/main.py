"""The application: pages and their order. Streamlit runs this file (`ui.run.launch`).

It has a folder of its own because Streamlit takes a `pages` folder beside the file it runs for a navigation of its own, which
would answer the first request of an address such as /circuit.
"""

from __future__ import annotations

from importlib.resources import files

import streamlit as st

from ui import PAGES

# Home is the default page and so has no address of its own
st.set_page_config(page_title="Circuit Atlas", layout="wide")
st.navigation(
    [
        st.Page(
            str(files("ui") / "pages" / f"{name}.py"), title=name.capitalize(), url_path=name, default=name == "home"
        )
        for name in PAGES
    ],
    position="top",  # the canvas needs the width
).run()
