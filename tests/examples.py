"""How many examples a property is tried with: HYPOTHESIS_PROFILE=long for a night, =mutation for a mutant.

``conftest.py`` loads this before any test is read.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
_TIMES = {"long": 50.0, "mutation": 0.1}.get(_PROFILE, 1.0)

# No deadline, and no judging of how fast values are drawn: both measure the machine.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("default"), max_examples=5_000)
# Mutants want a quick verdict, the same each time: drawn from the test's name, and none made smaller.
settings.register_profile(
    "mutation",
    settings.get_profile("default"),
    max_examples=25,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile(_PROFILE)


def examples(count: int, *, shared: bool = False) -> settings:
    """So many examples, or the profile's multiple. ``shared``: they share the fixtures of one test, as they may."""
    allowed = [HealthCheck.too_slow, *([HealthCheck.function_scoped_fixture] if shared else [])]
    return settings(max_examples=max(15, int(count * _TIMES)), deadline=None, suppress_health_check=allowed)
