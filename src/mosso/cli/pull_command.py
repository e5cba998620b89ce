"""`mosso pull`: the only command that uses the network."""

from __future__ import annotations

from pathlib import Path

import click

from mosso.checkpoint.models import pulled_folder


@click.command("pull")
@click.argument("model")
@click.option(
    "--to", type=click.Path(file_okay=False, path_type=Path), help="Folder; default: mosso's own cache."
)
@click.option("--revision", help="Branch, tag or commit.")
@click.option("--original", is_flag=True, help="The weights of the original/ folder instead.")
def command(model: str, to: Path | None, revision: str | None, original: bool) -> None:
    """Download MODEL (20b, 120b, or a hub id) with progress; a run that was stopped goes on where it was.

    Needs the extra `hub`: pip install 'mosso[hub]'. HF_ENDPOINT and HF_TOKEN are honoured.
    """
    from mosso.checkpoint.hub import pull

    folder = pull(model, to or pulled_folder(model), revision=revision, original=original)
    click.echo(f"{model} is in {folder}; to serve it: mosso serve {to or model}")
