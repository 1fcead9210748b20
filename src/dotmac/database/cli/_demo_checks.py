"""What a client sees: the taskboard driven over HTTP, every answer checked against what must hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dotmac.database.cli._demo_data import RARE_EVERY, RARE_WORD, STATUSES, TENANTS
from dotmac.database.cli._demo_report import CheckFailedError, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

_OURS, _THEIRS = "acme", "birch"
_PAGE_ROWS = 1000
_BULK_ROWS = 500
_NOBODY = "018f0000-0000-7000-8000-000000000000"


class ApiChecks:
    """The steps, in order; each returns a line that says what it showed.

    Raises:
        CheckFailedError: From a step: an answer was not what it must be.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._task: dict[str, Any] = {}
        self._user: dict[str, Any] = {}

    def steps(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Names and actions."""
        yield "Create", self.create
        yield "Filter", self.filter
        yield "Search", self.search
        yield "Page by cursor to the end", self.page_to_the_end
        yield "Change many at once", self.bulk
        yield "Delete softly, restore", self.soft_delete
        yield "Import", self.import_rows
        yield "Refuse what does not fit", self.refusals
        yield "Keep tenants apart", self.isolation

    def create(self) -> str:
        """A user and a task; the task is stamped with who made it."""
        self._user = self._json("POST", "/users", 201, json={"username": "newcomer"})
        self._task = self._json(
            "POST", "/tasks", 201, json={"title": "Show how it works", "user_id": self._user["id"]}
        )
        require("PENDING", self._task["status"], "status of a new task")
        require("demo-client", self._task["created_by"], "author of a new task")
        done = self._json("POST", f"/tasks/{self._task['id']}/complete", 200)
        require(True, done["completed_at"] is not None, "a completed task has a time")  # noqa: FBT003 - an expectation
        counts = self._json("GET", "/users/task-counts", 200)
        mine = [item["task_count"] for item in counts if item["user"]["id"] == self._user["id"]]
        require([1], mine, "tasks of the new user")
        return "a user, a task, completed"

    def filter(self) -> str:
        """Filtered pages hold what was asked for, and count it right."""
        expected = TENANTS[_OURS] * STATUSES.count("IN_PROGRESS") // len(STATUSES)
        page = self._json("GET", "/tasks", 200, params={"status": "IN_PROGRESS", "per_page": 100, "page": 2})
        require(expected, page["total"], "tasks in progress")
        require({"IN_PROGRESS"}, {task["status"] for task in page["items"]}, "statuses on the page")
        named = self._json("GET", "/tasks", 200, params={"user.username": "newcomer"})
        require([self._task["id"]], [task["id"] for task in named["items"]], "tasks of the new user")
        return f"{expected:,} of {TENANTS[_OURS]:,} by status; by the name of a related user"

    def search(self) -> str:
        """Text search finds every match, in any case."""
        found = self._json("GET", "/tasks/search", 200, params={"q": RARE_WORD.lower(), "limit": 1000})
        require(TENANTS[_OURS] // RARE_EVERY, len(found), "matches")
        return f"{len(found)} matches in {TENANTS[_OURS]:,} titles"

    def page_to_the_end(self) -> str:
        """Every row of the tenant comes exactly once, in order."""
        ids: list[str] = []
        positions: list[tuple[str, str]] = []
        cursor, pages = None, 0
        while True:
            params = {"sort": "-created_at", "limit": _PAGE_ROWS} | ({"cursor": cursor} if cursor else {})
            page = self._json("GET", "/tasks", 200, params=params)
            ids += [task["id"] for task in page["items"]]
            positions += [(task["created_at"], task["id"]) for task in page["items"]]
            cursor, pages = page["next_cursor"], pages + 1
            if cursor is None:
                break
        expected = self._json("GET", "/tasks/statistics", 200)["total"]
        require(TENANTS[_OURS] + 1, expected, "tasks of the tenant")
        require(expected, len(ids), "rows over all pages")
        require(expected, len(set(ids)), "different rows over all pages")
        newest_first = sorted({created for created, _ in positions}, reverse=True)
        require(newest_first, list(dict.fromkeys(created for created, _ in positions)), "order of the rows")
        return f"{len(ids):,} rows in {pages} pages, each exactly once"

    def bulk(self) -> str:
        """Many rows are created, changed and deleted by one request each."""
        new = [{"title": f"Part {number}", "user_id": self._user["id"]} for number in range(_BULK_ROWS)]
        created = self._json("POST", "/tasks/bulk", 201, json=new)
        require([item["title"] for item in new], [task["title"] for task in created], "order of new tasks")
        updates = [{"id": task["id"], "status": "COMPLETED"} for task in created]
        require(_BULK_ROWS, self._json("PATCH", "/tasks/bulk", 200, json=updates)["changed"], "changed rows")
        done = self._json("GET", f"/users/{self._user['id']}/tasks", 200, params={"limit": 1000})
        require({"COMPLETED"}, {task["status"] for task in done}, "statuses after the change")
        ids = [task["id"] for task in created]
        require(
            _BULK_ROWS, self._json("POST", "/tasks/bulk-delete", 200, json=ids)["changed"], "deleted rows"
        )
        require(
            TENANTS[_OURS] + 1, self._json("GET", "/tasks/statistics", 200)["total"], "rows that are left"
        )
        return f"{_BULK_ROWS} created, changed, deleted"

    def soft_delete(self) -> str:
        """A deleted task is gone for every reader, and comes back whole."""
        where = f"/tasks/{self._task['id']}"
        before = self._json("GET", where, 200)
        self._status("DELETE", where, 204)
        self._status("GET", where, 404)
        self._status("DELETE", where, 404)
        left = self._json("GET", "/tasks", 200, params={"user.username": "newcomer"})
        require(0, left["total"], "tasks of the user while theirs is deleted")
        gone = self._json("GET", "/tasks/deleted", 200)
        require(self._task["id"], gone[0]["id"], "the task deleted last")
        restored = self._json("POST", f"{where}/restore", 200)
        require(before | {"updated_at": ""}, restored | {"updated_at": ""}, "the restored task")
        self._status("GET", where, 200)
        return "hidden everywhere, then back as it was"

    def import_rows(self) -> str:
        """Good rows of a file land, bad ones are named by line."""
        rows = [
            "title,username,status",
            "First,newcomer,",
            ",newcomer,",
            "Third,nobody-at-all,",
            "Fourth,newcomer,LATE",
        ]
        result = self._json(
            "POST", "/tasks/import", 200, content="\r\n".join(rows), headers={"Content-Type": "text/csv"}
        )
        require(1, result["imported"], "imported rows")
        require(
            [3, 4, 5], sorted(problem["line"] for problem in result["problems"]), "lines that were refused"
        )
        return "1 row landed, 3 refused by line number"

    def refusals(self) -> str:
        """Wrong requests get an answer that says so, as problem details."""
        self._status("POST", "/users", 409, json={"username": "newcomer"})
        self._status("POST", "/users", 422, json={"username": ""})
        self._status("POST", "/users", 422, json={"username": "other", "is_admin": True})
        self._status("GET", "/tasks", 422, params={"password": "x"})
        self._status("GET", "/tasks", 422, params={"sort": "request_id"})
        self._status("GET", "/tasks", 422, params={"limit": 10, "cursor": "broken"})
        self._status("POST", "/tasks", 404, json={"title": "For nobody", "user_id": _NOBODY})
        answer = self._client.get("/tasks", headers={"X-Tenant-ID": ""})
        require(400, answer.status_code, "GET /tasks without a tenant")
        return "duplicate, empty, unknown field, foreign cursor, no tenant"

    def isolation(self) -> str:
        """Another tenant reaches none of our rows on any way in, and ours are untouched."""
        where, theirs = f"/tasks/{self._task['id']}", {"X-Tenant-ID": _THEIRS}
        before = self._json("GET", where, 200)
        cursor = self._json("GET", "/tasks", 200, params={"limit": 10})["next_cursor"]
        listed = self._json("GET", "/tasks", 200, params={"title": "Show how it works"}, headers=theirs)
        require(0, listed["total"], "our tasks in another tenant's list")
        total = self._json("GET", "/tasks/statistics", 200, headers=theirs)["total"]
        require(TENANTS[_THEIRS], total, "the other tenant's own tasks")
        users = self._json("GET", "/users", 200, params={"username": "newcomer"}, headers=theirs)
        require(0, users["total"], "our users in another tenant's list")
        found = self._json("GET", "/tasks/search", 200, params={"q": "Show how it works"}, headers=theirs)
        require([], found, "our tasks in another tenant's search")
        self._status("GET", where, 404, headers=theirs)
        self._status("PATCH", where, 404, json={"title": "Taken over"}, headers=theirs)
        self._status("DELETE", where, 404, headers=theirs)
        self._status("POST", f"{where}/restore", 404, headers=theirs)
        self._status("GET", f"/users/{self._user['id']}/tasks", 404, headers=theirs)
        self._status("DELETE", f"/users/{self._user['id']}", 404, headers=theirs)
        self._status("POST", "/tasks", 404, json={"title": "X", "user_id": self._user["id"]}, headers=theirs)
        self._status("GET", "/tasks", 422, params={"limit": 10, "cursor": cursor}, headers=theirs)
        updates = [{"id": self._task["id"], "title": "Taken over"}]
        require(
            0, self._json("PATCH", "/tasks/bulk", 200, json=updates, headers=theirs)["changed"], "bulk update"
        )
        ids = [self._task["id"]]
        require(
            0,
            self._json("POST", "/tasks/bulk-delete", 200, json=ids, headers=theirs)["changed"],
            "bulk delete",
        )
        require(before, self._json("GET", where, 200), "our task after all that")
        return "lists, search, ids, changes, bulk, references and cursors"

    def _json(self, method: str, path: str, status: int, **request: Any) -> Any:
        return self._status(method, path, status, **request).json()

    def _status(self, method: str, path: str, status: int, **request: Any) -> httpx.Response:
        answer = self._client.request(method, path, **request)
        is_problem = answer.headers.get("content-type") == "application/problem+json"
        said = f" ({answer.json()['detail']})" if is_problem and answer.status_code != status else ""
        require(status, answer.status_code, f"{method} {path}{said}")
        if answer.is_error and not is_problem:
            raise CheckFailedError(f"{method} {path}: the error is not problem details")
        return answer
