"""The rules, as functions of values: no clock, no chance, no I/O. ``now_ms`` and randomness are arguments."""
