"""Dialect C': downloads of Neuronpedia's page: B0 or C with a label written into every clerp, and perhaps the saved view.

Embeddings read `Emb: ".."`, error nodes carry the label of whatever feature shares their number (not theirs), logits in
a supernode have its label in front.
"""

from ingest.formats.dialect import Dialect

DIALECT = Dialect("neuronpedia-ui", label_source="interface download")
