"""Registers every verb on the app, in the order in which `atlas --help` lists them."""

from atlas.cli import demo, trace, files, circuits, labels, questions, servers  # noqa: F401, I001
