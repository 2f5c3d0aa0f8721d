"""`python -m atlas`."""

from atlas.cli.main import main

main()
