"""`worldline sign`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worldline.cli.output import print_next


def sign(
    world: Annotated[Path, typer.Argument(help="Folder of the world.")],
    key: Annotated[Path, typer.Option(help="File of the private key.")],
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Create the key first, and its public key KEY.pub.")
    ] = False,
) -> None:
    """Sign a world, so that others can require your signature."""
    from worldline.signature import create_key, sign_bundle

    if new_key:
        print(f"Private key: {key} (keep it secret)")
        print(f"Public key:  {create_key(key)} (give it to those who open the world)")
    print(f"Signature:   {sign_bundle(world, key)}")
    print_next("serve", str(world), "--require-signature", f"{key}.pub")
