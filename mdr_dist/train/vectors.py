"""Parameters that start from vectors which came with the raw data, as words do from those of a larger corpus."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mdr_dist.data.layout import read_vectors
from mdr_dist.errors import UserError
from mdr_dist.methods.base import Method
from mdr_dist.tables import Tables


def check_vectors(method: Method, path: str) -> None:
    """Raise `UserError` unless the data set's vectors are as wide as what starts from them."""
    widths = {name: parameter.shape[-1] for name, parameter in method.named_parameters()}
    widths |= {spec.name: spec.dim for spec in method.tables()}
    for name, space in method.pretrained().items():
        vectors = read_vectors(path, space)
        width = 0 if vectors is None else vectors.schema.field("vector").type.list_size
        if vectors is not None and name in widths and width != widths[name]:
            raise UserError(
                f"data set {path}: its vectors of {space} have {width} numbers, and the method's {name} have "
                f"{widths[name]}; make them alike in the job"
            )


@torch.no_grad()
def start_from_vectors(method: Method, tables: Tables, *, path: str) -> None:
    """Write the data set's vectors over the rows they belong to, of what is held here."""
    dense = dict(method.named_parameters())
    for name, space in method.pretrained().items():
        found = read_vectors(path, space)
        if found is None:
            continue
        ids, vectors = _arrays(found)
        if name in dense:
            dense[name][ids.to(dense[name].device)] = vectors.to(dense[name].device)
        for shard in tables.shards(name) if name in tables.specs else ():
            rows = shard.tensor
            here = (ids >= shard.row_start) & (ids < shard.row_start + len(rows))
            part = vectors[here][:, shard.col_start : shard.col_start + shard.columns]
            rows[(ids[here] - shard.row_start).to(rows.device)] = part.to(rows.device)


def _arrays(found: pa.Table) -> tuple[Tensor, Tensor]:
    """Ids [n] and vectors [n, D]."""
    whole = found.column("vector").combine_chunks()
    vectors = np.array(whole.flatten().to_numpy(), dtype=np.float32).reshape(len(found), -1)
    return torch.from_numpy(found.column("id").to_numpy().copy()), torch.from_numpy(vectors)
