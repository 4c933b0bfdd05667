"""Tables as torch.distributed.checkpoint saved them, read without running what a file may say.

Its `.metadata` is a pickle, which could name any function to call. Only what describes tensors is let in; the tensors
themselves torch reads with `weights_only=True`.
"""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from mdr_dist import storage

_KNOWN = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}


class SavedTables(FsspecReader):
    """Reads a checkpoint folder, local or on an object store; `UnpicklingError` for metadata that is no metadata."""

    def read_metadata(self, rank: int | None = None) -> Metadata:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What is saved, and where."""
        with self.fs.create_stream(self._get_metadata_path(rank), "rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"a {type(metadata).__name__} in place of the metadata")
        for info in metadata.storage_data.values():
            if storage.leads_out(info.relative_path):
                raise pickle.UnpicklingError(f"{info.relative_path!r} leads out of the checkpoint")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        """What a name in the pickle stands for."""
        if global_name in _KNOWN.get(module_name, ()):
            return super().find_class(module_name, global_name)
        if module_name == "torch" and isinstance(found := getattr(torch, global_name, None), torch.dtype):
            return found
        raise pickle.UnpicklingError(f"{module_name}.{global_name} has no place in a checkpoint's metadata")
