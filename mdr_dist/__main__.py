"""`python -m mdr_dist` is `mdr`."""

from mdr_dist.cli import main

main()
