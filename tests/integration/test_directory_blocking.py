from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta

import pytest
from sqlalchemy import text

from dotmac.database import Database
from dotmac.database.errors import (
    ConfigurationError,
    QuotaExceededError,
    TenantExistsError,
    TenantNotFoundError,
    TenantSuspendedError,
    ValidationError,
)
from dotmac.database.tenancy import BlockingTenantDirectory, DirectoryOptions, Quotas


@pytest.fixture(params=["sqlite", "mysql"])
def database(request, tmp_path):
    url = (
        f"sqlite:///{tmp_path}/tenants.db"
        if request.param == "sqlite"
        else request.getfixturevalue("mysql_url")
    )
    with Database(url) as database:
        yield database
        with database.engine.begin() as connection:
            connection.execute(text("DROP TABLE IF EXISTS admin_tenants"))


@pytest.fixture
def directory(database):
    directory = BlockingTenantDirectory(database, DirectoryOptions(admission_timeout=timedelta(seconds=30)))
    directory.install()
    return directory


def test_without_its_table_the_directory_says_what_to_do(database):
    with pytest.raises(ConfigurationError, match="admin_tenants"):
        BlockingTenantDirectory(database).list()


def test_ids_that_differ_in_case_alone_are_one(directory):
    directory.create("acme", tenant_id="t1")
    with pytest.raises(TenantExistsError):
        directory.create("apex", tenant_id="T1")


def test_other_databases_keep_a_directory_under_a_prefixed_name(directory):
    acme = directory.create("acme", name="Acme")
    assert directory.get(acme.id) == directory.get_by_slug("acme") == directory.resolve("acme") == acme
    assert directory.placement_of(acme.id).mode == "shared"
    directory.suspend(acme.id)
    with pytest.raises(TenantSuspendedError):
        directory.placement_of(acme.id)
    assert directory.resume(acme.id).status == "active"
    assert directory.rename(acme.id, "apex").slug == "apex"
    assert [tenant.slug for tenant in directory.list()] == ["apex"]
    directory.drop(acme.id, confirm="apex", keep_data=True)
    with pytest.raises(TenantNotFoundError):
        directory.placement_of(acme.id)


def test_a_database_that_exists_can_be_registered(directory):
    acme = directory.register("acme", mode="database", connection="eu-1")
    placement = directory.placement_of(acme.id)
    assert (placement.mode, placement.connection) == ("database", "eu-1")
    assert directory.drop(acme.id, confirm="acme") == acme


@pytest.mark.parametrize("mode", ["schema", "database"])
def test_schemas_and_databases_are_not_made_elsewhere(directory, mode):
    with pytest.raises(ConfigurationError, match="PostgreSQL"):
        directory.create("acme", mode=mode)
    assert directory.list() == []


def test_rows_are_not_counted_elsewhere(directory):
    with pytest.raises(ValidationError, match="PostgreSQL"):
        directory.create("acme", quotas=Quotas(rows={"invoices": 1}))
    assert directory.list() == []


def test_the_next_in_line_gets_the_place_that_becomes_free(directory):
    acme = directory.create("acme", quotas=Quotas(connections=1))
    placement = directory.placement_of(acme.id)
    entered = threading.Event()

    def wait_for_a_place() -> None:
        with directory.admit(placement):
            entered.set()

    with directory.admit(placement):
        thread = threading.Thread(target=wait_for_a_place)
        thread.start()
        assert not entered.is_set()
    assert entered.wait(30)
    thread.join()
    assert directory._core.admission.open_sessions(acme.id) == 0


def test_a_place_that_does_not_become_free_is_an_error(directory):
    directory._core.admission._timeout_seconds = 0.01
    acme = directory.create("acme", quotas=Quotas(connections=1))
    placement = directory.placement_of(acme.id)
    with directory.admit(placement), pytest.raises(QuotaExceededError, match="1 connections"):
        directory.admit(placement).__enter__()
    with directory.admit(placement):
        pass


@pytest.mark.parametrize(
    "quotas",
    [{"connections": 0}, {"rows": {"t": -1}}, {"rows": {"t": 1.5}}, {"statement_timeout": timedelta(0)}],
)
def test_a_quota_that_makes_no_sense_is_refused(quotas):
    with pytest.raises(ValidationError, match="quota"):
        Quotas(**quotas)


def test_quotas_survive_their_stored_form():
    quotas = Quotas(rows={"t": 5}, statement_timeout=timedelta(milliseconds=1500), connections=3)
    assert Quotas.from_json(quotas.to_json()) == quotas
    assert Quotas.from_json(None) == Quotas()


def test_importing_tenancy_imports_no_directory():
    script = (
        "import sys, dotmac.database.tenancy\n"
        "print([name for name in sys.modules if name.startswith('dotmac.database.tenancy._directory')])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
