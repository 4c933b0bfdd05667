"""Raw files → data set, by a recipe."""

from mdr_dist.data.prepare.pipeline import prepare

__all__ = ["prepare"]
