"""Query parameters: what is declared becomes options, everything else is 422, nothing is ever 500."""

# ruff: noqa: B008, FAST002, FBT001, FBT002, TC003 - FastAPI reads defaults and annotations at run time

from __future__ import annotations

import datetime as dt
import enum
from typing import Annotated, Any

import httpx
import pydantic
import pytest
from fastapi import APIRouter, Depends, FastAPI, Query
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import JSON, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dotmac.database.errors import ValidationError
from dotmac.database.fastapi import query_options
from dotmac.database.models import Base
from dotmac.database.query import CountMode, FilterOperator, QueryOptions, SortField


class Status(enum.StrEnum):
    OPEN = "open"
    DONE = "done"


class QueriedOwner(Base):
    __tablename__ = "queried_owners"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class QueriedTask(Base):
    __tablename__ = "queried_tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    status: Mapped[Status]
    rank: Mapped[int]
    done_at: Mapped[dt.datetime | None]
    extra: Mapped[Any] = mapped_column(JSON)
    owner_id: Mapped[int] = mapped_column(ForeignKey("queried_owners.id"))
    owner: Mapped[QueriedOwner] = relationship()


DECLARED = query_options(
    {
        "status": ["eq", "in", "ne"],
        "title": ["icontains"],
        "rank": ["eq", "gte", "between"],
        "done_at": ["is_null", "lt"],
        "owner.name": ["eq", "starts_with"],
        "extra.color": ["eq"],
    },
    ["rank", "title", "owner.name"],
    model=QueriedTask,
    max_per_page=50,
    also=["debug"],
)


class Colours(pydantic.BaseModel):
    hue: str | None = None
    tint: str | None = pydantic.Field(None, alias="t")


def _application() -> FastAPI:
    app = FastAPI()

    @app.get("/tasks")
    async def tasks(
        options: Annotated[QueryOptions, Depends(DECLARED)], verbose: bool = False, view: str | None = None
    ):
        return options.model_dump(mode="json", exclude_defaults=True)

    @app.get("/names")
    async def names(options: Annotated[QueryOptions, Depends(query_options(["status", "color"]))]):
        return options.model_dump(mode="json", exclude_defaults=True)

    @app.get("/models")
    async def models(
        options: Annotated[QueryOptions, Depends(query_options(["status"]))],
        colours: Annotated[Colours, Query()],
    ):
        return colours

    async def wanted_language(lang: str = "en") -> str:
        return lang

    router = APIRouter()

    @router.get("/included")
    async def included(options: Annotated[QueryOptions, Depends(query_options(["status"]))]):
        return {}

    app.include_router(router, prefix="/v1", dependencies=[Depends(wanted_language)])
    return app


APPLICATION = _application()


async def _get(path: str, params: Any = None) -> httpx.Response:
    transport = httpx.ASGITransport(APPLICATION)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path, params=params)


async def test_declared_parameters_become_options():
    answer = await _get(
        "/tasks?status=open&rank__gte=3&title__icontains=100%25&status__in=open,done&rank__between=1,9"
        "&done_at__is_null=false&owner.name__starts_with=A&extra.color=red&sort=-rank,title&page=2&per_page=20"
    )
    assert answer.status_code == 200
    body = answer.json()
    assert [(item["field"], item.get("operator", "eq"), item["value"]) for item in body["filters"]] == [
        ("status", "eq", "open"),
        ("rank", "gte", "3"),
        ("title", "icontains", "100%"),
        ("status", "in", ["open", "done"]),
        ("rank", "between", ["1", "9"]),
        ("done_at", "is_null", False),
        ("owner.name", "starts_with", "A"),
        ("extra.color", "eq", "red"),
    ]
    assert body["sorts"] == [{"field": "rank", "order": "desc"}, {"field": "title"}]
    assert body["pagination"] == {"page": 2}


async def test_cursor_parameters_become_a_cursor_page():
    body = (await _get("/tasks?cursor=abc&limit=5")).json()
    assert body == {"cursor_pagination": {"cursor": "abc", "limit": 5}}


async def test_without_parameters_it_is_the_first_page():
    assert (await _get("/tasks")).json() == {"pagination": {}}


async def test_defaults_of_the_declaration_apply():
    options = query_options(
        sortable=["rank"], per_page=7, count=CountMode.NONE, default_sort=[SortField(field="rank")]
    )
    app = FastAPI()

    @app.get("/")
    async def root(options: QueryOptions = Depends(options)):
        assert options.pagination is not None
        return [options.pagination.per_page, options.pagination.count, options.sorts[0].field]

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/")).json() == [7, "none", "rank"]


async def test_bare_names_are_filtered_by_equality_and_membership():
    assert (await _get("/names?status=a&color__in=b,c")).status_code == 200
    assert (await _get("/names?status__gte=a")).status_code == 422


@pytest.mark.parametrize(
    "query",
    [
        "unknown=1",
        "title=x",
        "status__bogus=open",
        "status__=open",
        "__eq=1",
        "=1",
        "status=",
        "status=open&status=done",
        "status=neither",
        "status__in=open,,done",
        "status__in=" + ",".join(["open"] * 501),
        "rank=one",
        "rank=99999999999999999999",
        "rank=" + "9" * 3000,
        "rank__between=1",
        "rank__between=1,2,3",
        "done_at__is_null=perhaps",
        "done_at__lt=yesterday",
        "title__icontains=a%00b",
        "title__icontains=" + "x" * 2001,
        "sort=status",
        "sort=-",
        "sort=rank,-rank",
        "sort=rank,,title",
        "page=0",
        "page=-1",
        "page=1.5",
        "page=1_0",
        "page=%D9%A1",
        "page=99999999999",
        "per_page=51",
        "limit=0",
        "limit=5&page=2",
        "cursor=" + "x" * 16_385,
        "cursor=",
        "&".join(f"x{number}=1" for number in range(201)),
    ],
)
async def test_anything_else_is_refused(query):
    answer = await _get(f"/tasks?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "query"


async def test_a_refusal_names_the_parameter_and_not_the_value():
    answer = await _get("/tasks?rank=s3cret&zzz=s3cret")
    assert [problem["loc"] for problem in answer.json()["detail"]] == [["query", "zzz"], ["query", "rank"]]
    assert "s3cret" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/tasks?verbose=true&view=x&debug=1",
        "/models?hue=1&t=2",
        "/v1/included?lang=de",
    ],
)
async def test_parameters_the_route_declares_are_let_through(path):
    assert (await _get(path)).status_code == 200


async def test_names_of_another_route_are_refused():
    assert (await _get("/names?verbose=true")).status_code == 422


def test_openapi_shows_every_parameter_with_its_type():
    operation = APPLICATION.openapi()["paths"]["/tasks"]["get"]
    shown = {item["name"]: item["schema"] for item in operation["parameters"]}
    assert shown["status"]["enum"] == ["open", "done"]
    assert shown["rank__gte"]["type"] == "integer"
    assert shown["done_at__lt"]["format"] == "date-time"
    assert shown["done_at__is_null"]["type"] == "boolean"
    assert shown["per_page"]["maximum"] == 50
    assert {"sort", "page", "cursor", "limit", "verbose", "owner.name__starts_with"} <= shown.keys()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"filterable": "status"}, TypeError),
        ({"filterable": {"status": "eq"}}, TypeError),
        ({"filterable": {"status": ["like it"]}}, ValueError),
        ({"filterable": ["page"]}, ValueError),
        ({"filterable": {"a": ["in"], "a__in": ["eq"]}}, ValueError),
        ({"filterable": ["nothing"], "model": QueriedTask}, ValidationError),
        ({"sortable": ["nothing"], "model": QueriedTask}, ValidationError),
        ({"max_per_page": 1001}, ValueError),
        ({"per_page": 200}, ValueError),
    ],
)
def test_a_wrong_declaration_is_refused_at_once(arguments, error):
    with pytest.raises(error):
        query_options(**arguments)


NAMES = st.one_of(
    st.sampled_from(["status", "rank", "rank__gte", "done_at__lt", "sort", "page", "limit", "cursor"]),
    st.builds(lambda operator: f"rank__{operator}", st.sampled_from(FilterOperator)),
    st.text(max_size=20),
)
VALUES = st.one_of(st.text(max_size=30), st.integers().map(str), st.datetimes().map(str), st.just("9" * 5000))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
async def test_no_query_string_is_a_server_error(pairs):
    assert (await _get("/tasks", httpx.QueryParams(pairs))).status_code in {200, 422}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
async def test_no_bytes_in_a_query_string_are_a_server_error(raw):
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/tasks",
        "raw_path": b"/tasks",
        "query_string": raw,
        "headers": [],
        "scheme": "http",
        "server": ("test", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }
    await APPLICATION(scope, receive, send)
    assert sent[0]["status"] in {200, 422}
