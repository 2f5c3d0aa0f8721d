"""Hugging Face language models, frozen at one prompt so that everything between the MLPs is linear.

One file per architecture family; another family is one more subclass of `Model` and its `model_type` in `FAMILIES`.
"""

from ingest.models.base import Frozen, Model
from ingest.models.load import FAMILIES, load_model

__all__ = ["FAMILIES", "Frozen", "Model", "load_model"]
