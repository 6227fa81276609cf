"""Files that other programs write, read into our values: topologies of NCCL, nvidia-smi, ASTRA-sim; measured logs."""

from parsim.network.importers.measured import MeasuredRow, MeasuredTable
from parsim.network.importers.nccl_tests import read_log

__all__ = ["MeasuredRow", "MeasuredTable", "read_log"]
