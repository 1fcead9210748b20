"""Taskboard: users and tasks of many tenants, over HTTP."""
