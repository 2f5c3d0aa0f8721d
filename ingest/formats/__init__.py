"""Graph files of other tools, in and out; one file per dialect. No torch.

read_graph(path) -> ImportedGraph        circuit-tracer, Neuronpedia, Anthropic, OpenMOSS graphs; circuit files
find_files(paths) -> list of files       files and folders
write_neuronpedia(circuit, ...) -> bytes circuit-tracer's schema 1, as Neuronpedia takes it
write_graphml(circuit, ...) -> bytes
"""

from ingest.formats.files import find_files
from ingest.formats.read import ImportedGraph, read_graph
from ingest.formats.write_graphml import write_graphml
from ingest.formats.write_neuronpedia import write_neuronpedia

__all__ = ["ImportedGraph", "find_files", "read_graph", "write_graphml", "write_neuronpedia"]
