"""What the package gives by name are its functions, whichever modules were imported before."""

from __future__ import annotations

import importlib
import pkgutil

import ingest.components


def test_names_stay_functions_when_every_module_is_imported():
    for module in pkgutil.iter_modules(ingest.components.__path__):
        importlib.import_module(f"ingest.components.{module.name}")
    from ingest.components import faithfulness

    assert callable(faithfulness)
    for name in ingest.components.__all__:
        found = getattr(ingest.components, name)
        assert callable(found), name
        assert found.__name__ == name
