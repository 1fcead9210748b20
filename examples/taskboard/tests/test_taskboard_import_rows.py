"""Files to rows: what is read, and what is said about the rest."""

from __future__ import annotations

import io

import pytest

from taskboard.services.operations.import_rows import ImportFormatError, Row, RowProblem, read_rows

HEADER = "title,username\n"


def _csv(text: str | bytes, **options: str) -> list[Row | RowProblem]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_rows(io.BytesIO(data), "csv", **options))


def _said(items: list[Row | RowProblem]) -> list[str]:
    return [
        str(item) if isinstance(item, RowProblem) else f"{item.line}-{item.last_line} ok" for item in items
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("a,u\nb,u\n", ["2-2 ok", "3-3 ok"]),
        ("a,u\r\nb,u\r\n", ["2-2 ok", "3-3 ok"]),
        ("a,u\n\n\nb,u", ["2-2 ok", "5-5 ok"]),
        ('"two\nlines",u\nb,u\n', ["2-3 ok", "4-4 ok"]),
        ('"two\r\nlines",u\r\nb,u\r\n', ["2-3 ok", "4-4 ok"]),
        ("a,u\na,u\n", ["2-2 ok", "line 3: the same as line 2"]),
        ("a,u,x\nb,u\n", ["line 2: there are 3 fields, and 2 columns in the header", "3-3 ok"]),
        (",u\nb,\n", ["line 2: title is missing", "line 3: username is missing"]),
        ("x" * 201 + ",u\nb,u\n", ["line 2: title is longer than 200 characters", "3-3 ok"]),
        ("x" * 200_000 + ",u\nb,u\n", ["line 2: a field is longer than 131072 characters", "3-3 ok"]),
        ("x" * 3_000_000 + ",u\nb,u\n", ["line 2: the line is longer than 1048576 characters", "3-3 ok"]),
        ("a\x00,u\nb,u\n", ["line 2: title holds a NUL character", "3-3 ok"]),
        ('"a"b,u\nb,u\n', ["line 2: text follows the closing quote of a field", "3-3 ok"]),
        (
            'a,u\n"b,u\nc,u\n',
            ["2-2 ok", "line 3: a quoted field is never closed; nothing from here on was read"],
        ),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_csv_rows_keep_their_line_numbers(body: str, said: list[str]) -> None:
    assert _said(_csv(HEADER + body)) == said


def test_a_byte_order_mark_is_no_part_of_the_first_column() -> None:
    assert _said(_csv(b"\xef\xbb\xbf" + HEADER.encode() + b"a,u\n")) == ["2-2 ok"]


def test_a_row_that_is_not_utf8_is_refused_alone() -> None:
    assert _said(_csv(HEADER.encode() + b"caf\xe9,u\nb,u\n")) == [
        "line 2: title is not valid UTF-8 text",
        "3-3 ok",
    ]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b" \r\n ", "empty"),
        (HEADER.encode("utf-16"), "UTF-16.*iconv -f UTF-16"),
        (HEADER.encode("utf-32"), "UTF-32.*iconv"),
        (HEADER.encode("utf-16-le"), "NUL bytes"),
        (b"a,u\nb,u\n", "unknown: column 1, column 2; missing: title, username"),
        (b"title\na\n", "missing: username"),
        (b"title,username,title\n", "more than once: title"),
        (b"title;username\na;u\n", "separated by ';'"),
        (b'"title,username\n', "header cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_as_a_whole(data: bytes, says: str) -> None:
    with pytest.raises(ImportFormatError, match=says):
        _csv(data)


def test_columns_may_be_separated_by_something_else() -> None:
    assert _said(_csv("title;username\na;u\n", delimiter=";")) == ["2-2 ok"]


def test_a_header_alone_is_an_import_of_nothing() -> None:
    assert _csv(HEADER) == []


def test_statuses_are_taken_in_any_case_and_others_refused_without_quoting_them() -> None:
    found = _csv("title,username,status\na,u,completed\nb,u,SECRET\n")
    assert isinstance(found[0], Row)
    assert found[0].task.status == "COMPLETED"
    assert _said(found[1:]) == [
        "line 3: status is none of 'PENDING', 'IN_PROGRESS', 'COMPLETED' or 'CANCELLED'"
    ]


def test_an_id_may_occur_once() -> None:
    key = "018f0000-0000-7000-8000-000000000000"
    found = _csv(f"title,username,id\na,u,{key}\nb,u,{key}\nc,u,SECRET\n")
    assert _said(found) == ["2-2 ok", "line 3: id is that of line 2 too", "line 4: id does not fit"]


def test_json_lines_are_checked_one_by_one() -> None:
    lines = [
        b'{"title": "a", "username": "u"}',
        b"",
        b"{",
        b"[1]",
        b'{"title": 5, "username": "u"}',
        b'{"title": "\\ud800", "username": "u"}',
        b'{"title": "b", "username": "u", "SECRET": 1}',
        b"[" * 100_000,
        b'{"title": "' + b"x" * 2_000_000 + b'", "username": "u"}',
        b'{"title": "z", "username": "u", "description": null}',
    ]
    found = list(read_rows(io.BytesIO(b"\r\n".join(lines)), "jsonl"))
    assert _said(found) == [
        "1-1 ok",
        "line 3: not a JSON object",
        "line 4: not a JSON object",
        "line 5: title is not text",
        "line 6: title is not valid UTF-8 text",
        "line 7: there is an unknown field; fields are: title, username, description, status, id",
        "line 8: not a JSON object",
        "line 9: the line is longer than 1048576 characters",
        "10-10 ok",
    ]


def test_the_file_stays_open_for_its_owner() -> None:
    stream = io.BytesIO(HEADER.encode() + b"a,u\n")
    assert len(list(read_rows(stream, "csv"))) == 1
    assert not stream.closed
