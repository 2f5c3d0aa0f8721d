"""`NAME.atlas`: a whole atlas in one file, for moving it to another place and for keeping it (docs/backup.md)."""

from atlas.bundle.moving import Exported, export_all, import_bundle

__all__ = ["Exported", "export_all", "import_bundle"]
