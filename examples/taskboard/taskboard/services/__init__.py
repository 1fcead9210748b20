"""Business rules, apart from the database layer."""
