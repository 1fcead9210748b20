from __future__ import annotations

import threading

import pytest
from alembic.config import Config

from dotmac.database.alembic import _commands, alembic_config
from dotmac.database.errors import ConfigurationError


def test_a_directory_is_enough(tmp_path):
    config = alembic_config(tmp_path, url="sqlite:///p%40th")
    assert config.get_main_option("script_location") == str(tmp_path)
    assert config.get_main_option("sqlalchemy.url") == "sqlite:///p%40th"
    assert config.attributes["url"] == "sqlite:///p%40th"


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="nowhere"):
        alembic_config(tmp_path / "nowhere")


def test_a_config_is_copied_not_changed():
    original = Config(attributes={"mine": 1})
    original.set_main_option("sqlalchemy.url", "sqlite:///original")
    config = alembic_config(original, url="sqlite:///other")
    assert config.get_main_option("sqlalchemy.url") == "sqlite:///other"
    assert config.attributes == {"mine": 1, "url": "sqlite:///other"}
    assert original.get_main_option("sqlalchemy.url") == "sqlite:///original"
    assert original.attributes == {"mine": 1}


def test_an_ini_file_is_read(tmp_path):
    ini = tmp_path / "alembic.ini"
    ini.write_text("[alembic]\nscript_location = somewhere\n")
    assert alembic_config(ini).get_main_option("script_location") == "somewhere"


def test_a_migration_inside_a_migration_is_refused():
    with _commands._turn(), pytest.raises(RuntimeError, match="already under way"), _commands._turn():
        pass


def test_threads_take_turns():
    inside: list[str] = []
    entered = threading.Event()

    def other() -> None:
        entered.set()
        with _commands._turn():
            inside.append("other")

    thread = threading.Thread(target=other)
    with _commands._turn():
        thread.start()
        entered.wait()
        inside.append("first")
    thread.join()
    assert inside == ["first", "other"]
