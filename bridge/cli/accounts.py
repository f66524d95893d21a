"""``bridge accounts``: what belongs to an account as a whole."""

from __future__ import annotations

from typing import Annotated

import typer

from bridge.cli.common import Json, audited, checked_account, opened
from bridge.cli.output import show
from bridge.domain.signing import encode_secret

accounts = typer.Typer(no_args_is_help=True)


@accounts.callback()
def _group() -> None:
    """With a single command Typer would otherwise drop its name."""


@accounts.command()
def secret(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account.")] = "default",
    json: Json = False,
) -> None:
    """Show the secret that signs callbacks to URLs which sessions name by themselves (callback_url).

    It is made when it is first asked for; every such URL of the account is signed with it.

    \b
    bridge accounts secret
    """
    checked_account(account)
    with opened() as bridge, audited(bridge, "accounts secret", account):
        shown = encode_secret(bridge.signing_keys.of_account(account))
    show({"account": account, "callback_secret": shown}, json=json)
