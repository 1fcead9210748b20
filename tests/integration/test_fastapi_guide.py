"""The guide's application runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from dotmac.database.fastapi import get_db

GUIDE = Path(__file__).parents[2] / "docs" / "fastapi.md"


async def test_the_guides_application_works(capsys):
    names: dict = {"__name__": "guide"}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        exec(compile(block, GUIDE.name, "exec", dont_inherit=True), names)  # noqa: S102 - the project's own page
    app = names["app"]
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        async with get_db() as session:
            connection = await session.connection()
            await connection.run_sync(names["Note"].__table__.create)
        assert (await client.get("/notes")).status_code == 400
        client.headers["X-Tenant-ID"] = "acme"
        for stars in range(3):
            answer = await client.post("/notes", json={"title": f"note {stars}", "stars": stars})
            assert answer.status_code == 201
        page = (await client.get("/notes?stars__gte=1&sort=-stars&per_page=1")).json()
        assert (page["total"], page["items"][0]["title"]) == (2, "note 2")
        assert (await client.get("/notes?colour=red")).status_code == 422
        assert (await client.get("/titles")).text.splitlines() == ["note 0", "note 1", "note 2"]
        assert (await client.post("/counts")).status_code == 202
        assert capsys.readouterr().out == "3\n"
        other = await client.get("/notes", headers={"X-Tenant-ID": "other"})
        assert other.json()["total"] == 0
