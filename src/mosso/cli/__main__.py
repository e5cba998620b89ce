"""`python -m mosso.cli`, for where the `mosso` script is not on the path."""

from mosso.cli.main import main

main(prog_name="mosso")
