"""A database that goes away under an application, and comes back."""

from __future__ import annotations

from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession  # noqa: TC002 - FastAPI evaluates annotations

from dotmac.database import AsyncDatabase, get_db
from dotmac.database.embedded import EmbeddedPostgres
from dotmac.database.fastapi import database_lifespan, install_error_handlers


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_outage_is_a_503_without_details_and_ends_by_itself(driver, tmp_path):
    with EmbeddedPostgres(directory=tmp_path / "data") as server:
        database = AsyncDatabase(server.url(driver=driver))
        app = FastAPI(lifespan=database_lifespan(database))
        install_error_handlers(app)

        @app.get("/one")
        async def one(db: Annotated[AsyncSession, Depends(get_db)]) -> int:
            return int((await db.execute(text("SELECT 1"))).scalar_one())

        @app.get("/broken")
        async def broken(db: Annotated[AsyncSession, Depends(get_db)]) -> None:
            await db.execute(text("SELECT 1"))
            raise OSError("the application's own trouble")

        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            assert (await client.get("/one")).status_code == 200
            assert (await client.get("/broken")).status_code == 500
            server.kill()
            for _ in range(2):  # the pooled connection is lost; then none can be made
                response = await client.get("/one")
                assert response.status_code == 503
                assert response.headers["Retry-After"]
                assert response.json()["code"] == "database_unavailable"
                assert str(server.port) not in response.text
            server.start()
            assert (await client.get("/one")).status_code == 200
