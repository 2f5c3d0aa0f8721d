"""Automatic labels of features: where they fire, what they promote, a label in words, and how well it predicts.

from ingest.labels import label_features
label_features(atlas)
"""

from ingest.labels.label import label_features

__all__ = ["label_features"]
