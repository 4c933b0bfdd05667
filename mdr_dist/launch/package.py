"""What is sent to a cluster to run a job there: this program's source and the job, and nothing that lies around."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import mdr_dist
from mdr_dist import catalog, storage
from mdr_dist.config import Job
from mdr_dist.errors import UserError
from mdr_dist.launch import versions
from mdr_dist.launch.nodes import absolute
from mdr_dist.train.attempt import job_file
from mdr_dist.train.run import JOB, check

LIMIT_BYTES = 90 * 2**20  # before it is compressed; Ray takes 100 MiB
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip's first moment


def prepared(job: Job, runs: str) -> Job:
    """The job as the cluster runs it: local paths in full, at least one worker. A `UserError` if it is wrong.

    What can be wrong by itself is found here, and against its data set where that is also on this machine.
    """
    data = job.data.model_copy(update={"path": absolute(job.data.path)})
    workers, place = max(1, job.launch.workers), absolute(runs or job.launch.storage)
    launch = job.launch.model_copy(update={"workers": workers, "storage": place})
    job = job.model_copy(update={"data": data, "launch": launch})
    catalog.configured(job.method)
    job_file(job)
    if storage.is_local(data.path) and storage.exists(data.path):
        # memory is that of the cluster's devices, not of one that may be here
        check(job.model_copy(update={"launch": launch.model_copy(update={"gpus_per_worker": 0})}))
    return job


def packaged(job: Job, *, source: str = "") -> bytes:
    """A zip of the package `source` (else the one that runs), the job and this machine's versions.

    The same content gives the same bytes. Only folders that are Python packages count, so that what a program left
    beside the source stays here. `UserError` if it is too large for Ray.
    """
    root = Path(source or os.path.dirname(mdr_dist.__file__))
    files = dict(sorted(_files(root)))
    size = {name: path.stat().st_size for name, path in files.items()}
    if sum(size.values()) > LIMIT_BYTES:
        largest = max(size, key=lambda name: size[name])
        raise UserError(
            f"{root}: {sum(size.values()) / 2**20:,.0f} MiB, more than the {LIMIT_BYTES / 2**20:.0f} MiB that can be "
            f"sent to a cluster; the largest file is {largest}: data belongs into data.path, not beside the source"
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            _add(archive, name, path.read_bytes())
        _add(archive, versions.FILE, json.dumps(versions.versions()).encode())
        _add(archive, JOB, job_file(job))
    return buffer.getvalue()


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """(name in the archive, path) of all files of a Python package and those below it."""
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if (Path(folder) / name / "__init__.py").is_file()]
        for name in names:
            path = Path(folder) / name
            if not name.startswith(".") and path.suffix != ".pyc" and path.is_file():
                yield f"{root.name}/{path.relative_to(root).as_posix()}", path


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)
