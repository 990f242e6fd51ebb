"""`marmot items add`: new items become retrievable without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The items of a retrieval bundle.")


@app.callback()
def items() -> None:
    """The items of a retrieval bundle."""


@app.command(epilog="Example: marmot items add --bundle retrieval --items new.csv --out retrieval2")
def add(
    *,
    bundle: Annotated[Path, typer.Option(help="Retrieval bundle, trained with --items.")],
    items: Annotated[Path, typer.Option(help="CSV or Parquet: item_id and categories.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle; replaced in one step.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="End with one machine-readable line.")
    ] = False,
) -> None:
    """Add items by their categories; in ranking they stay the unknown items that they are.

    Items that are there already are left as they are; the fingerprint stays.
    """
    from models.bundle import load_bundle  # noqa: PLC0415
    from models.items import read_features, read_names  # noqa: PLC0415
    from models.stage_course import add_items  # noqa: PLC0415

    loaded = load_bundle(bundle)
    added = add_items(loaded, read_names(items), read_features(items), out)
    told = {"bundle": str(out), "added": added, "fingerprint": loaded.fingerprint}
    typer.echo(json.dumps(told) if as_json else f"{added:,} items added: {out}")
