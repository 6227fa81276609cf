"""Reports: the diagram, the offline page, the picture, the Perfetto trace and the terminal's tables."""

from parsim.report.gantt import comparison, gantt
from parsim.report.measured_table import print_measured
from parsim.report.page import Section, compare_page, page
from parsim.report.png import png_bytes
from parsim.report.table import print_comparison, print_rows, print_schedule, print_schedules, print_simulation
from parsim.report.trace import trace

__all__ = [
    "Section",
    "compare_page",
    "comparison",
    "gantt",
    "page",
    "png_bytes",
    "print_comparison",
    "print_measured",
    "print_rows",
    "print_schedule",
    "print_schedules",
    "print_simulation",
    "trace",
]
