"""The HTTP API, as a client sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from taskboard.settings import get_settings

NOBODY = "018f0000-0000-7000-8000-000000000000"
Clients = Callable[[str | None], httpx.AsyncClient]


async def _user(client: httpx.AsyncClient, username: str = "newcomer") -> dict[str, Any]:
    answer = await client.post("/users", json={"username": username})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def _tasks(client: httpx.AsyncClient, count: int) -> list[dict[str, Any]]:
    user = await _user(client)
    rows = [{"title": f"Task {n}", "user_id": user["id"]} for n in range(count)]
    answer = await client.post("/tasks/bulk", json=rows)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_health_needs_no_tenant(client_of: Clients) -> None:
    async with client_of(None) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}


async def test_users_live_through_their_routes(client: httpx.AsyncClient) -> None:
    user = await _user(client)
    where = f"/users/{user['id']}"
    assert (await client.get(where)).json() == user
    renamed = (await client.patch(where, json={"username": "regular"})).json()
    assert renamed["username"] == "regular"
    assert [item["id"] for item in (await client.get("/users")).json()["items"]] == [user["id"]]
    assert (await client.get("/users/task-counts")).json() == [{"user": renamed, "task_count": 0}]
    assert (await client.delete(where)).status_code == 204
    assert (await client.get(where)).status_code == 404


async def test_a_task_moves_through_its_states(client: httpx.AsyncClient) -> None:
    [task] = await _tasks(client, 1)
    where = f"/tasks/{task['id']}"
    for verb, status in (
        ("start", "IN_PROGRESS"),
        ("complete", "COMPLETED"),
        ("reopen", "PENDING"),
        ("cancel", "CANCELLED"),
    ):
        moved = (await client.post(f"{where}/{verb}")).json()
        assert moved["status"] == status
        assert (moved["completed_at"] is not None) == (status == "COMPLETED")
    assert (await client.post(f"{where}/complete")).status_code == 422


async def test_a_task_is_assigned_to_another_user(client: httpx.AsyncClient) -> None:
    [task] = await _tasks(client, 1)
    other = await _user(client, "other")
    assigned = await client.post(f"/tasks/{task['id']}/assign", json={"user_id": other["id"]})
    assert assigned.json()["user_id"] == other["id"]
    found = (await client.get(f"/users/{other['id']}/tasks", params={"status": "PENDING"})).json()
    assert [item["id"] for item in found] == [task["id"]]


async def test_a_patch_keeps_what_it_leaves_out_and_null_empties_the_description(
    client: httpx.AsyncClient,
) -> None:
    [task] = await _tasks(client, 1)
    where = f"/tasks/{task['id']}"
    changed = (await client.patch(where, json={"description": "More"})).json()
    assert (changed["title"], changed["description"]) == (task["title"], "More")
    assert (await client.patch(where, json={"description": None})).json()["description"] is None
    assert (await client.patch(where, json={"title": None})).status_code == 422


async def test_pages_by_number_and_by_cursor_hold_every_row_once(client: httpx.AsyncClient) -> None:
    ids = {task["id"] for task in await _tasks(client, 25)}
    pages = [(await client.get("/tasks", params={"page": n, "per_page": 10})).json() for n in (1, 2, 3)]
    assert [page["total"] for page in pages] == [25, 25, 25]
    assert [task["id"] for page in pages for task in page["items"]] == sorted(ids)
    seen, cursor = list[str](), None
    while True:
        params = {"limit": 10, "sort": "-title"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/tasks", params=params)).json()
        seen += [task["title"] for task in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == sorted((f"Task {n}" for n in range(25)), reverse=True)


@pytest.mark.parametrize(
    ("params", "count"),
    [
        ({"status": "PENDING"}, 3),
        ({"status__in": "COMPLETED,CANCELLED"}, 0),
        ({"title__icontains": "TASK 1"}, 1),
        ({"user.username": "newcomer"}, 3),
        ({"completed_at__is_null": "true"}, 3),
        ({"created_at__gte": "2999-01-01T00:00:00Z"}, 0),
    ],
)
async def test_lists_are_filtered(client: httpx.AsyncClient, params: dict[str, str], count: int) -> None:
    await _tasks(client, 3)
    answer = await client.get("/tasks", params=params)
    assert answer.status_code == 200, answer.text
    assert answer.json()["total"] == count


async def test_bulk_changes_and_deletes_what_is_there(client: httpx.AsyncClient) -> None:
    tasks = await _tasks(client, 3)
    updates = [{"id": tasks[0]["id"], "status": "COMPLETED"}, {"id": NOBODY, "title": "Nobody's"}]
    assert (await client.patch("/tasks/bulk", json=updates)).json() == {"changed": 1}
    assert (await client.get("/tasks/statistics")).json()["by_status"]["COMPLETED"] == 1
    ids = [task["id"] for task in tasks]
    assert (await client.post("/tasks/bulk-delete", json=[*ids, NOBODY])).json() == {"changed": 3}
    assert {task["id"] for task in (await client.get("/tasks/deleted")).json()} == set(ids)


async def test_a_bulk_create_with_one_wrong_row_creates_nothing(client: httpx.AsyncClient) -> None:
    user = await _user(client)
    rows = [{"title": "Good", "user_id": user["id"]}, {"title": "Bad", "user_id": NOBODY}]
    assert (await client.post("/tasks/bulk", json=rows)).status_code == 404
    assert (await client.get("/tasks/statistics")).json()["total"] == 0


async def test_search_takes_its_text_literally(client: httpx.AsyncClient) -> None:
    await _tasks(client, 3)
    assert len((await client.get("/tasks/search", params={"q": "task"})).json()) == 3
    assert (await client.get("/tasks/search", params={"q": "_"})).json() == []


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/nowhere", None, 404),
        ("PUT", "/tasks", None, 405),
        ("GET", "/tasks/not-a-uuid", None, 422),
        ("GET", f"/tasks/{NOBODY}", None, 404),
        ("GET", "/tasks?secret=1", None, 422),
        ("GET", "/tasks?page=0", None, 422),
        ("GET", "/tasks?limit=5&cursor=broken", None, 422),
        ("POST", "/users", b"{", 422),
        ("POST", "/users", b'{"username": "a\\u0000b"}', 422),
        ("POST", "/users", b'{"username": "\\ud800"}', 422),
        ("POST", "/users", b'{"username": "x", "tenant_id": "birch"}', 422),
        ("POST", "/tasks/bulk", b"[]", 422),
        ("POST", "/tasks/import", b"title", 415),
    ],
)
async def test_errors_are_problem_details_without_the_input(
    client: httpx.AsyncClient, method: str, path: str, content: bytes | None, status: int
) -> None:
    answer = await client.request(method, path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert all("input" not in error for error in problem.get("errors", ()))


async def test_a_taken_username_is_a_conflict(client: httpx.AsyncClient) -> None:
    await _user(client)
    answer = await client.post("/users", json={"username": "newcomer"})
    assert (answer.status_code, answer.json()["code"]) == (409, "duplicate")


async def test_a_request_without_a_tenant_is_refused(client_of: Clients) -> None:
    async with client_of(None) as client:
        answer = await client.get("/tasks")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", "/tasks/{task}", None),
        ("PATCH", "/tasks/{task}", {"title": "Taken over"}),
        ("DELETE", "/tasks/{task}", None),
        ("POST", "/tasks/{task}/restore", None),
        ("POST", "/tasks/{task}/complete", None),
        ("GET", "/users/{user}", None),
        ("PATCH", "/users/{user}", {"username": "taken"}),
        ("DELETE", "/users/{user}", None),
        ("GET", "/users/{user}/tasks", None),
        ("POST", "/tasks", {"title": "For a stranger", "user_id": "{user}"}),
    ],
)
async def test_another_tenants_rows_do_not_exist(
    client_of: Clients, method: str, path: str, content: dict[str, str] | None
) -> None:
    async with client_of("acme") as ours, client_of("birch") as theirs:
        [task] = await _tasks(ours, 1)
        names = {"task": task["id"], "user": task["user_id"]}
        body = {key: value.format(**names) for key, value in content.items()} if content else None
        answer = await theirs.request(method, path.format(**names), json=body)
        assert answer.status_code == 404
        assert (await ours.get(f"/tasks/{task['id']}")).json() == task


async def test_another_tenants_lists_bulks_and_cursors_reach_nothing(client_of: Clients) -> None:
    async with client_of("acme") as ours, client_of("birch") as theirs:
        tasks = await _tasks(ours, 3)
        cursor = (await ours.get("/tasks", params={"limit": 2})).json()["next_cursor"]
        assert (await theirs.get("/tasks", params={"limit": 2, "cursor": cursor})).status_code == 422
        assert (await theirs.get("/tasks")).json()["total"] == 0
        assert (await theirs.get("/users")).json()["total"] == 0
        assert (await theirs.get("/tasks/search", params={"q": "Task"})).json() == []
        updates = [{"id": task["id"], "title": "Taken over"} for task in tasks]
        assert (await theirs.patch("/tasks/bulk", json=updates)).json() == {"changed": 0}
        ids = [task["id"] for task in tasks]
        assert (await theirs.post("/tasks/bulk-delete", json=ids)).json() == {"changed": 0}
        assert (await ours.get("/tasks")).json()["items"] == tasks


async def test_an_import_reports_rows_by_line(client: httpx.AsyncClient) -> None:
    await _user(client)
    body = "title,username\r\nOne,newcomer\r\n,newcomer\r\nThree,stranger\r\n"
    answer = await client.post(
        "/tasks/import", content=body, headers={"Content-Type": "text/csv; charset=utf-8"}
    )
    assert answer.json() == {
        "imported": 1,
        "refused": 2,
        "problems": [
            {"line": 3, "field": "title", "reason": "is missing"},
            {"line": 4, "field": "username", "reason": "is no user of this tenant"},
        ],
    }


async def test_an_import_that_is_too_large_is_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKBOARD_MAX_IMPORT_BYTES", "10")
    get_settings.cache_clear()
    try:
        answer = await client.post("/tasks/import", content=b"x" * 11, headers={"Content-Type": "text/csv"})
        assert answer.status_code == 413
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()


async def test_a_refusal_of_many_rows_stays_smaller_than_the_request(client: httpx.AsyncClient) -> None:
    rows = [{"title": "x", "user_id": NOBODY, **{f"k{n}": 1 for n in range(100)}}] * 100
    answer = await client.post("/tasks/bulk", json=rows)
    assert (answer.status_code, len(answer.json()["errors"])) == (422, 100)
    assert len(answer.content) < len(answer.request.content)
