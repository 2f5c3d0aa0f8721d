"""The pages of Circuit Atlas: Streamlit, imports `atlas` only."""

PAGES = ("home", "search", "feature", "circuit", "paths", "compare", "cypher")  # as the navigation lists them
