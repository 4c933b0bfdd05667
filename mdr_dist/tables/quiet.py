"""What importing and building with torchrec does to a program's logging and warnings, undone in one place."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' notes from the user, and fbgemm from installing a handler on the root logger.

    fbgemm logs through the module `logging` itself, which installs one wherever the root has none yet.
    """
    root, guard = logging.getLogger(), logging.NullHandler()
    before = [*root.handlers, guard]
    root.addHandler(guard)
    for name in ("torchrec", "fbgemm_gpu", "torch.fx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(guard)
        for handler in [h for h in root.handlers if h not in before]:
            root.removeHandler(handler)


with quiet():
    import torchrec.distributed  # noqa: F401

# fbgemm's CPU lookup of tables whose optimizer is ours registers its gradient in its own way, of which torch warns once
# a table and step; the gradient is right (the contract tests compare it with torch's own)
warnings.filterwarnings("ignore", message="fbgemm::dense_embedding_codegen_lookup_function: an autograd kernel")
