"""Named connections, and which schema a piece of work belongs in."""

from dotmac.database.connections._schema_resolver import SchemaResolver, SchemaResolverProtocol

__all__ = ["SchemaResolver", "SchemaResolverProtocol"]
