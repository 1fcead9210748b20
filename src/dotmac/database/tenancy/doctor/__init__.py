"""Is a live database as safe as its models say? Facts from the catalog, judged purely; each finding with its cure."""

from dotmac.database.tenancy.doctor._examine import examine, judge
from dotmac.database.tenancy.doctor._facts import DatabaseFacts, read_facts
from dotmac.database.tenancy.doctor._finding import Finding, Severity

__all__ = ["DatabaseFacts", "Finding", "Severity", "examine", "judge", "read_facts"]
