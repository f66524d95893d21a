"""Every command of ``bridge`` and where it is: nothing else of the command line is imported until one is called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command or a group. ``module`` holds ``attribute``: a function for Typer, or a ``typer.Typer`` (a group)."""

    module: str
    attribute: str
    help: str
    panel: str


RUN = "Run"
TRACK = "Track and look"
CALL = "Callbacks"
OPERATE = "Accounts, secrets and records"
DEVELOP = "Develop an application"

# In the order of `bridge --help`. A command that is not built yet is absent.
COMMANDS: dict[str, Command] = {
    "demo": Command(
        module="bridge.cli.demo",
        attribute="demo",
        help="Watch SMS become callbacks, all on this machine.",
        panel=RUN,
    ),
    "up": Command(
        module="bridge.cli.up",
        attribute="up",
        help="Run everything in one terminal, with your settings.",
        panel=RUN,
    ),
    "worker": Command(
        module="bridge.cli.processes",
        attribute="worker",
        help="Run a worker: records, polls and delivers.",
        panel=RUN,
    ),
    "beat": Command(
        module="bridge.cli.processes",
        attribute="beat",
        help="Run the clock that wakes what is due.",
        panel=RUN,
    ),
    "flower": Command(
        module="bridge.cli.processes",
        attribute="flower",
        help="Watch the workers with Celery Flower.",
        panel=RUN,
    ),
    "web": Command(
        module="bridge.cli.web",
        attribute="web",
        help="Serve the health checks, and take the provider's push.",
        panel=RUN,
    ),
    "doctor": Command(
        module="bridge.cli.doctor",
        attribute="doctor",
        help="Check that everything needed is there, and say what to do.",
        panel=RUN,
    ),
    "track": Command(
        module="bridge.cli.track",
        attribute="track",
        help="Track sessions, so that their receipts are polled.",
        panel=TRACK,
    ),
    "sessions": Command(
        module="bridge.cli.sessions",
        attribute="sessions",
        help="What is tracked, and how far it has come.",
        panel=TRACK,
    ),
    "explain": Command(
        module="bridge.cli.explain",
        attribute="explain",
        help="Why my application was (not) told: a verdict, and why.",
        panel=TRACK,
    ),
    "events": Command(
        module="bridge.cli.events",
        attribute="events",
        help="What changed, as subscribers get it.",
        panel=TRACK,
    ),
    "rejected": Command(
        module="bridge.cli.rejected",
        attribute="rejected",
        help="What senders wanted tracked and could not be.",
        panel=TRACK,
    ),
    "subscriptions": Command(
        module="bridge.cli.subscriptions",
        attribute="subscriptions",
        help="Who is told of changes: add, list, rotate, remove.",
        panel=CALL,
    ),
    "accounts": Command(
        module="bridge.cli.accounts",
        attribute="accounts",
        help="Credential sets: add, check, rotate, remove.",
        panel=OPERATE,
    ),
    "rewrap": Command(
        module="bridge.cli.rewrap",
        attribute="rewrap",
        help="Encrypt stored secrets with the first of the keys.",
        panel=OPERATE,
    ),
    "deliveries": Command(
        module="bridge.cli.deliveries",
        attribute="deliveries",
        help="What is not accepted yet, or given up.",
        panel=CALL,
    ),
    "resend": Command(
        module="bridge.cli.resend",
        attribute="resend",
        help="Send events again: by their ids, or all of a time.",
        panel=CALL,
    ),
    "erase": Command(
        module="bridge.cli.erase",
        attribute="erase",
        help="Remove a phone from all that is kept.",
        panel=OPERATE,
    ),
    "audit": Command(
        module="bridge.cli.audit",
        attribute="audit",
        help="Who did what with this bridge.",
        panel=OPERATE,
    ),
    "listen": Command(
        module="bridge.cli.listen",
        attribute="listen",
        help="Receive callbacks here, verify and print them.",
        panel=DEVELOP,
    ),
    "simulator": Command(
        module="bridge.cli.simulator",
        attribute="simulator",
        help="Run a USMS here that sends nothing: for trying things out.",
        panel=DEVELOP,
    ),
}
