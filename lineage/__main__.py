"""`python -m lineage` is the command line."""

from lineage.cli import main

main()
