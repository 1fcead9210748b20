"""Options in, statements out: everything about queries that needs no database to decide."""

from dotmac.database.query._coercion import coerce
from dotmac.database.query._conflicts import is_unique
from dotmac.database.query._cursor import encode_value, seal, unseal
from dotmac.database.query._keyset import SortKey, total_order
from dotmac.database.query._operations import Operations
from dotmac.database.query._options import (
    MAX_PER_PAGE,
    CountMode,
    CursorPaginationParams,
    Filter,
    FilterGroup,
    FilterOperator,
    NullsOrder,
    OptionsLike,
    PaginationParams,
    QueryFilter,
    QueryOptions,
    SortField,
    SortOrder,
    as_filters,
    as_options,
)
from dotmac.database.query._pages import CursorPaginationResult, PaginationResult
from dotmac.database.query._paging import Cursors, cursor_paged, paged
from dotmac.database.query._reading import Policy
from dotmac.database.query._statements import counting, deferred_join, ordered
from dotmac.database.query._steps import Copy, Delete, Execute, Flush, Step, Steps
from dotmac.database.query._values import DataLike, key_of
from dotmac.database.query._violations import translated
from dotmac.database.query._writes import WRITES_OPTION, tell_inserted

__all__ = [
    "MAX_PER_PAGE",
    "WRITES_OPTION",
    "Copy",
    "CountMode",
    "CursorPaginationParams",
    "CursorPaginationResult",
    "Cursors",
    "DataLike",
    "Delete",
    "Execute",
    "Filter",
    "FilterGroup",
    "FilterOperator",
    "Flush",
    "NullsOrder",
    "Operations",
    "OptionsLike",
    "PaginationParams",
    "PaginationResult",
    "Policy",
    "QueryFilter",
    "QueryOptions",
    "SortField",
    "SortKey",
    "SortOrder",
    "Step",
    "Steps",
    "as_filters",
    "as_options",
    "coerce",
    "counting",
    "cursor_paged",
    "deferred_join",
    "encode_value",
    "is_unique",
    "key_of",
    "ordered",
    "paged",
    "seal",
    "tell_inserted",
    "total_order",
    "translated",
    "unseal",
]
