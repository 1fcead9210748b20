"""The catalog queries of the doctor. PostgreSQL 15 to 18; run with ``search_path = pg_catalog``.

Membership is asked by IN rather than by EXISTS: the server then hashes the inner side once, whereas with thousands of
schemas it chose loops over catalogs that autovacuum had not analysed yet.
"""

# ruff: noqa: S608 - nothing is put into these but constants above
from __future__ import annotations

from typing import Final

_OURS: Final = """n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
    AND {object}.oid NOT IN (SELECT d.objid FROM pg_depend d WHERE d.deptype = 'e'
                             AND d.classid = CAST('{catalog}' AS regclass))"""
_OUR_TABLES: Final = _OURS.format(object="c", catalog="pg_class")

_ROLE: Final = """(cardinality(CAST(:roles AS text[])) = 0 AND r.rolname = current_user
    OR r.rolname = ANY (CAST(:roles AS text[])))"""

# Whether a role's rows are not kept from it: then its views and functions open them to others.
_EXEMPT: Final = "(o.rolsuper OR o.rolbypassrls)"

_GRANTEES: Final = """(SELECT coalesce(array_agg(DISTINCT CASE WHEN x.grantee = 0 THEN 'PUBLIC'
        ELSE CAST(pg_get_userbyid(x.grantee) AS text) END), CAST('{{}}' AS text[]))
    FROM aclexplode({acl}) x WHERE x.grantee <> {owner} AND x.privilege_type IN ({privileges}))"""

_SERVER: Final = """
SELECT CAST(current_setting('server_version_num') AS integer) AS version, current_setting('server_version') AS release,
       CAST(current_database() AS text) AS database, CAST(current_user AS text) AS username,
       coalesce(:column, '') AS tenant_column, cardinality(CAST(:roles AS text[])) AS asked"""

_ROLES: Final = f"""
SELECT CAST(r.rolname AS text) AS name, r.rolsuper AS is_superuser, r.rolbypassrls AS bypasses,
       (SELECT coalesce(array_agg(CAST(g.rolname AS text) ORDER BY g.rolname), CAST('{{}}' AS text[])) FROM pg_roles g
        WHERE g.oid <> r.oid AND NOT r.rolsuper AND pg_has_role(r.oid, g.oid, 'MEMBER') AND (g.rolsuper OR g.rolbypassrls
              OR g.rolname IN ('pg_read_all_data', 'pg_write_all_data', 'pg_execute_server_program',
                               'pg_read_server_files', 'pg_write_server_files')
              OR g.oid IN (SELECT c.relowner FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                           WHERE a.attname = :column AND c.relkind IN ('r', 'p')))) AS powers,
       (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = :column
        WHERE c.relowner = r.oid AND c.relkind IN ('r', 'p')) AS owned,
       (SELECT coalesce(array_agg(CAST(n.nspname AS text) ORDER BY n.nspname), CAST('{{}}' AS text[])) FROM pg_namespace n
        WHERE NOT r.rolsuper AND n.nspname NOT LIKE 'pg\\_%' AND has_schema_privilege(r.oid, n.oid, 'USAGE')) AS reaches
FROM pg_roles r WHERE {_ROLE} ORDER BY r.rolname"""

_TABLES: Final = f"""
SELECT CAST(n.nspname AS text) AS schema, CAST(c.relname AS text) AS name, CAST(o.rolname AS text) AS owner,
       c.relkind = 'p' AS is_partitioned, c.relispartition AS is_partition,
       CASE WHEN c.relispartition THEN (SELECT CAST(t.relname AS text) FROM pg_class t
            WHERE t.oid = pg_partition_root(c.oid)) ELSE CAST(c.relname AS text) END AS root,
       c.relrowsecurity AS is_enabled, c.relforcerowsecurity AS is_forced,
       CAST(a.attname AS text) AS tenant_column, a.attnotnull AS is_required, format_type(a.atttypid, -1) AS tenant_type,
       coalesce(k.collisdeterministic, true) AS is_deterministic,
       coalesce((c.oid, a.attnum) IN (SELECT i.indrelid, i.indkey[0] FROM pg_index i
                                      WHERE i.indisvalid AND i.indpred IS NULL), false) AS is_indexed,
       {_GRANTEES.format(acl="c.relacl", owner="c.relowner", privileges="'TRUNCATE'")} AS truncaters,
       coalesce(obj_description(c.oid, 'pg_class') = 'dotmac: rows counted for quotas', false) AND NOT (
         EXISTS (SELECT FROM aclexplode(c.relacl) x WHERE x.grantee <> c.relowner)
         OR EXISTS (SELECT FROM pg_attribute g, aclexplode(g.attacl) x WHERE g.attrelid = c.oid AND x.grantee <> c.relowner)
         OR EXISTS (SELECT FROM pg_roles r WHERE {_ROLE}
                    AND has_table_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE'))) AS is_counters
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles o ON o.oid = c.relowner
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = :column AND NOT a.attisdropped
LEFT JOIN pg_collation k ON k.oid = a.attcollation
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {_OUR_TABLES}
ORDER BY n.nspname, c.relname"""

_POLICIES: Final = f"""
SELECT CAST(n.nspname AS text) AS schema, CAST(c.relname AS text) AS table, CAST(p.polname AS text) AS name,
       p.polpermissive AS is_permissive, p.polcmd = '*' AND 0 = ANY (p.polroles) AS is_for_all,
       pg_get_expr(p.polqual, p.polrelid) AS using, pg_get_expr(p.polwithcheck, p.polrelid) AS check
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OUR_TABLES} ORDER BY 1, 2, 3"""

_VIEWS: Final = f"""
WITH RECURSIVE reads AS (
    SELECT DISTINCT w.ev_class AS view, d.refobjid AS relation
    FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid
    WHERE d.classid = CAST('pg_rewrite' AS regclass) AND d.refclassid = CAST('pg_class' AS regclass)
      AND d.refobjid <> w.ev_class
), tainted AS (
    SELECT r.view FROM reads r JOIN pg_class t ON t.oid = r.relation
    WHERE t.relkind IN ('r', 'p') AND (t.relrowsecurity OR EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attname = :column AND NOT a.attisdropped))
    UNION SELECT r.view FROM tainted t JOIN reads r ON r.relation = t.view
)
SELECT CAST(n.nspname AS text) AS schema, CAST(c.relname AS text) AS name, c.relkind = 'm' AS is_materialized,
       {_EXEMPT} AS is_exempt, CAST(o.rolname AS text) AS owner,
       coalesce((SELECT CAST(option_value AS boolean) FROM pg_options_to_table(c.reloptions)
                 WHERE option_name = 'security_invoker'), false) AS is_invoker,
       {_GRANTEES.format(acl="c.relacl", owner="c.relowner", privileges="'SELECT'")} AS readers
FROM tainted t JOIN pg_class c ON c.oid = t.view JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_roles o ON o.oid = c.relowner
WHERE {_OUR_TABLES} ORDER BY 1, 2"""

_FUNCTIONS: Final = f"""
SELECT CAST(n.nspname AS text) AS schema, format('%I.%I(%s)', n.nspname, p.proname,
           pg_get_function_identity_arguments(p.oid)) AS signature,
       CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END AS kind, p.prosecdef AS is_definer,
       {_EXEMPT} AS is_exempt, CAST(o.rolname AS text) AS owner,
       EXISTS (SELECT FROM unnest(p.proconfig) s WHERE s LIKE 'search\\_path=%') AS is_pinned,
       p.prorettype = CAST('trigger' AS regtype) AND p.proacl IS NOT NULL
         AND NOT EXISTS (SELECT FROM aclexplode(p.proacl) x WHERE x.grantee <> p.proowner) AS is_for_triggers
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_roles o ON o.oid = p.proowner
JOIN pg_language l ON l.oid = p.prolang
WHERE p.prokind IN ('f', 'p') AND l.lanname IN ('sql', 'plpgsql') AND {_OURS.format(object="p", catalog="pg_proc")}
ORDER BY 2"""

_NAMES: Final = """(SELECT array_agg(CAST(a.attname AS text) ORDER BY k.rank)
    FROM unnest({keys}) WITH ORDINALITY k(number, rank)
    JOIN pg_attribute a ON a.attrelid = {relation} AND a.attnum = k.number)"""

_FOREIGN_KEYS: Final = f"""
SELECT CAST(f.conname AS text) AS name, CAST(n.nspname AS text) AS schema, CAST(c.relname AS text) AS table,
       CAST(m.nspname AS text) AS target_schema, CAST(r.relname AS text) AS target,
       {_NAMES.format(keys="f.conkey", relation="f.conrelid")} AS columns,
       {_NAMES.format(keys="f.confkey", relation="f.confrelid")} AS target_columns,
       CAST(f.confdeltype AS text) AS on_delete, CAST(f.confupdtype AS text) AS on_update,
       a.attnum IS NOT NULL AND b.attnum IS NOT NULL AS joins_tenants,
       coalesce(EXISTS (SELECT FROM unnest(f.conkey, f.confkey) k(ours, theirs)
                        WHERE k.ours = a.attnum AND k.theirs = b.attnum), false) AS carries_tenant
FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class r ON r.oid = f.confrelid JOIN pg_namespace m ON m.oid = r.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = :column AND NOT a.attisdropped
LEFT JOIN pg_attribute b ON b.attrelid = r.oid AND b.attname = :column AND NOT b.attisdropped
WHERE f.contype = 'f' AND f.conparentid = 0 AND {_OUR_TABLES}
  AND (n.oid <> m.oid OR a.attnum IS NOT NULL AND b.attnum IS NOT NULL)
ORDER BY 2, 3, 1"""

_UNIQUES: Final = f"""
SELECT CAST(n.nspname AS text) AS schema, CAST(c.relname AS text) AS table, CAST(x.relname AS text) AS name,
       CAST(a.attname AS text) AS tenant_column, i.indisprimary AS is_primary,
       EXISTS (SELECT FROM pg_constraint s WHERE s.conindid = i.indexrelid AND s.contype IN ('p', 'u')) AS is_constraint,
       EXISTS (SELECT FROM pg_constraint s WHERE s.conindid = i.indexrelid AND s.contype = 'f') AS is_referred_to,
       pg_get_indexdef(i.indexrelid) AS definition,
       {_NAMES.format(keys="CAST(CAST(i.indkey AS text[]) AS smallint[])", relation="i.indrelid")} AS columns,
       (SELECT bool_and(t.atttypid = CAST('uuid' AS regtype)) FROM pg_attribute t
        WHERE t.attrelid = i.indrelid AND t.attnum = ANY (i.indkey)) AS is_random
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class x ON x.oid = i.indexrelid
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = :column AND NOT a.attisdropped
WHERE i.indisunique AND NOT x.relispartition AND NOT a.attnum = ANY (i.indkey) AND {_OUR_TABLES}
ORDER BY 1, 2, 3"""

_SEQUENCES: Final = f"""
SELECT CAST(n.nspname AS text) AS schema, CAST(s.relname AS text) AS name, CAST(c.relname AS text) AS table,
       {_GRANTEES.format(acl="s.relacl", owner="s.relowner", privileges="'SELECT', 'UPDATE'")} AS grantees
FROM pg_class s JOIN pg_depend e ON e.objid = s.oid AND e.classid = CAST('pg_class' AS regclass)
     AND e.deptype IN ('a', 'i') AND e.refclassid = CAST('pg_class' AS regclass)
JOIN pg_class c ON c.oid = e.refobjid JOIN pg_namespace n ON n.oid = s.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = :column AND NOT a.attisdropped
WHERE s.relkind = 'S' AND s.relacl IS NOT NULL AND {_OUR_TABLES}
ORDER BY 1, 2"""

_SCHEMAS: Final = f"""
SELECT CAST(n.nspname AS text) AS name, CAST(pg_get_userbyid(n.nspowner) AS text) AS owner,
       EXISTS (SELECT FROM aclexplode(n.nspacl) x WHERE x.grantee = 0 AND x.privilege_type = 'CREATE') AS is_open
FROM pg_namespace n WHERE {_OURS.format(object="n", catalog="pg_namespace")} ORDER BY 1"""

_ENUMS: Final = f"""
SELECT CAST(n.nspname AS text) AS schema, CAST(t.typname AS text) AS name,
       (SELECT coalesce(array_agg(format('ALTER TABLE %I.%I ALTER COLUMN %I TYPE text', m.nspname, c.relname, a.attname)),
                        CAST('{{}}' AS text[]))
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace m ON m.oid = c.relnamespace
        WHERE a.atttypid = t.oid AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND NOT a.atthasdef) AS cures,
       EXISTS (SELECT FROM pg_attribute a WHERE a.atttypid = t.oid AND a.atthasdef) AS has_default
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype = 'e' AND {_OURS.format(object="t", catalog="pg_type")} ORDER BY 1, 2"""

QUERIES: Final = {
    "server": _SERVER,
    "roles": _ROLES,
    "tables": _TABLES,
    "policies": _POLICIES,
    "views": _VIEWS,
    "functions": _FUNCTIONS,
    "foreign_keys": _FOREIGN_KEYS,
    "uniques": _UNIQUES,
    "sequences": _SEQUENCES,
    "schemas": _SCHEMAS,
    "enums": _ENUMS,
}
