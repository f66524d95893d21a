"""A subscription's own limits as options of a command: --rate, --concurrency, --retry, --max-batch and --partitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.domain.batches import MOST_EVENTS
from bridge.errors import UsageError

if TYPE_CHECKING:
    from bridge.domain.subscriptions import Subscription
    from bridge.setting_forms import Form

_BRIDGES_OWN = "default"

Rate = Annotated[str | None, typer.Option(metavar="N", help="Attempts a second, at most; or default.")]
Concurrency = Annotated[str | None, typer.Option(metavar="N", help="Attempts at once, at most; or default.")]
Retry = Annotated[
    str | None, typer.Option(metavar="WAITS", help="Waits between attempts, such as 5s,1m,1h; or default.")
]
Partitions = Annotated[
    str | None,
    typer.Option(metavar="N", help="Slices that may serve it at once, each some of its phones; or default: 1."),
]
MaxBatch = Annotated[
    str | None, typer.Option(metavar="N", help="Events in one callback, at most (a bridge.batch); or default: one.")
]


def limits(
    rate: str | None, concurrency: str | None, retry: str | None, max_batch: str | None, partitions: str | None
) -> Callable[[Subscription], Subscription]:
    """What gives a subscription those of the limits that were given; "default" takes its own away.

    Raises UsageError, naming the option.
    """
    from msgspec.structs import replace

    from bridge.setting_forms import fraction, schedule, whole

    given = {
        name: read_own(option, text, form)
        for name, option, text, form in (
            ("rate", "--rate", rate, fraction("0.01", "10000", "attempts a second")),
            ("concurrency", "--concurrency", concurrency, whole(1, 1_000)),
            ("retry_ms", "--retry", retry, schedule("10ms", "7d")),
            ("max_batch", "--max-batch", max_batch, whole(1, MOST_EVENTS)),
            ("partitions", "--partitions", partitions, whole(1, 256)),
        )
        if text is not None
    }
    return lambda subscription: replace(subscription, **given)


def read_own(option: str, text: str, form: Form) -> object:
    """What an option says, None for "default". Raises UsageError, naming the option."""
    if text == _BRIDGES_OWN:
        return None
    try:
        value = form.read(text)
        form.check(value)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
    return value
