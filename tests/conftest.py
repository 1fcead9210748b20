"""The project's own plugin gives the servers; ``pytester`` tests that plugin."""

from __future__ import annotations

import signal

pytest_plugins = ["pytester"]

# A shell that starts the tests in the background has them ignore Ctrl-C, and what they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
