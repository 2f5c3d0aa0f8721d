"""The pages of Circuit Atlas: Streamlit, imports `atlas` only."""

# as the navigation groups and lists them; what has no group stands beside the groups
SECTIONS: dict[str, tuple[str, ...]] = {
    "": ("home",),
    "Ask": ("search", "paths", "compare", "cypher"),
    "Circuits": ("circuit", "collections", "feature"),
    "Work": ("trace", "jobs"),
    "Group": (
        "news",
        "people",
    ),
}
PAGES = tuple(page for pages in SECTIONS.values() for page in pages)
TITLES = {
    "circuit": "All circuits",
    "feature": "A feature",
    "news": "What is new",
}  # where the name alone would mislead
