"""Where the application template is: inside the installed package, or in the checkout it is developed in."""

from __future__ import annotations

import sys
from pathlib import Path

from dotmac.database.errors import ConfigurationError

PACKAGE = "taskboard"
_INSTALLED = Path(__file__).resolve().parents[1] / "_template"
_CHECKOUT = Path(__file__).resolve().parents[4] / "examples" / PACKAGE


def template_directory() -> Path:
    """The directory of the template, the one that holds its ``pyproject.toml``.

    Raises:
        ConfigurationError: The installation lacks it.
    """
    for candidate in (_INSTALLED, _CHECKOUT):
        if (candidate / PACKAGE / "__init__.py").is_file():
            return candidate
    raise ConfigurationError(
        f"The application template is missing from this installation (looked in {_INSTALLED}). Install "
        f"dotmac-database again."
    )


def importable_template() -> Path:
    """The directory of the template, whose package can be imported from now on."""
    directory = template_directory()
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    return directory
