"""The guard on every SQLAlchemy session: what is sent stays within the tenant the session is bound to, or is refused."""

from dotmac.database.tenancy._guard._sessions import switch, switched_off

__all__ = ["switch", "switched_off"]
