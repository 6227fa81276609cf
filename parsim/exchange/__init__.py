"""In and out: the files of the tools people already use. One table of names for each tool serves both directions."""

from parsim.exchange.export import TARGETS, Exported, export
from parsim.exchange.imported import SOURCES, Elsewhere, Imported, import_run
from parsim.exchange.table import Note

__all__ = ["SOURCES", "TARGETS", "Elsewhere", "Exported", "Imported", "Note", "export", "import_run"]
