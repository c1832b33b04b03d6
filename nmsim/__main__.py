"""`python -m nmsim`, for a checkout that is not installed."""

from nmsim.cli import main

main()
