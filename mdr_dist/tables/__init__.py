"""Embedding tables: sharded by torchrec, or plain."""

from mdr_dist.tables import quiet as _quiet  # first: it imports torchrec
from mdr_dist.tables.placement import check_tables, plan
from mdr_dist.tables.plain import PlainTables
from mdr_dist.tables.read import read_table
from mdr_dist.tables.tables import Tables, build_tables

__all__ = ["PlainTables", "Tables", "build_tables", "check_tables", "plan", "read_table"]
del _quiet
