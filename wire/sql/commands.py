"""Tables of what PostgreSQL's statements, functions and settings do, as far as judging needs it.

Statement names are those of PostgreSQL's parse nodes (src/include/nodes/parsenodes.h, version 18).
"""

from __future__ import annotations

from typing import Final

# DDL: parse node → verb. What is in none of these tables is taken for DDL too.
DDL: Final[dict[str, str]] = {
    "CreateStmt": "CREATE",
    "CreateTableAsStmt": "CREATE",
    "ViewStmt": "CREATE",
    "IndexStmt": "CREATE",
    "CreateSeqStmt": "CREATE",
    "CreateFunctionStmt": "CREATE",
    "CreateTrigStmt": "CREATE",
    "CreateSchemaStmt": "CREATE",
    "CreateDomainStmt": "CREATE",
    "CreateEnumStmt": "CREATE",
    "CreateRangeStmt": "CREATE",
    "CompositeTypeStmt": "CREATE",
    "DefineStmt": "CREATE",
    "RuleStmt": "CREATE",
    "CreatePolicyStmt": "CREATE",
    "CreateStatsStmt": "CREATE",
    "CreateCastStmt": "CREATE",
    "CreateConversionStmt": "CREATE",
    "CreateOpClassStmt": "CREATE",
    "CreateOpFamilyStmt": "CREATE",
    "CreateTransformStmt": "CREATE",
    "CreateForeignTableStmt": "CREATE",
    "DropStmt": "DROP",
    "RenameStmt": "ALTER",
    "CommentStmt": "COMMENT",
    "SecLabelStmt": "SECURITY LABEL",
    "GrantStmt": "GRANT",
    "ReindexStmt": "REINDEX",
    "ClusterStmt": "CLUSTER",
    "VacuumStmt": "VACUUM",
    "RefreshMatViewStmt": "REFRESH",
}

# DDL that reaches beyond the tenant's own objects, to the server or to roles: parse node → name.
SYSTEM: Final[dict[str, str]] = {
    "AlterSystemStmt": "ALTER SYSTEM",
    "LoadStmt": "LOAD",
    "CheckPointStmt": "CHECKPOINT",
    "CreatedbStmt": "CREATE DATABASE",
    "DropdbStmt": "DROP DATABASE",
    "AlterDatabaseStmt": "ALTER DATABASE",
    "AlterDatabaseSetStmt": "ALTER DATABASE",
    "AlterDatabaseRefreshCollStmt": "ALTER DATABASE",
    "CreateRoleStmt": "CREATE ROLE",
    "AlterRoleStmt": "ALTER ROLE",
    "AlterRoleSetStmt": "ALTER ROLE",
    "DropRoleStmt": "DROP ROLE",
    "GrantRoleStmt": "GRANT of a role",
    "ReassignOwnedStmt": "REASSIGN OWNED",
    "DropOwnedStmt": "DROP OWNED",
    "CreateTableSpaceStmt": "CREATE TABLESPACE",
    "DropTableSpaceStmt": "DROP TABLESPACE",
    "AlterTableSpaceOptionsStmt": "ALTER TABLESPACE",
    "AlterTableMoveAllStmt": "ALTER TABLE ALL IN TABLESPACE",
    "CreateExtensionStmt": "CREATE EXTENSION",
    "AlterExtensionStmt": "ALTER EXTENSION",
    "AlterExtensionContentsStmt": "ALTER EXTENSION",
    "CreateFdwStmt": "CREATE FOREIGN DATA WRAPPER",
    "AlterFdwStmt": "ALTER FOREIGN DATA WRAPPER",
    "CreateForeignServerStmt": "CREATE SERVER",
    "AlterForeignServerStmt": "ALTER SERVER",
    "CreateUserMappingStmt": "CREATE USER MAPPING",
    "AlterUserMappingStmt": "ALTER USER MAPPING",
    "DropUserMappingStmt": "DROP USER MAPPING",
    "ImportForeignSchemaStmt": "IMPORT FOREIGN SCHEMA",
    "CreateAmStmt": "CREATE ACCESS METHOD",
    "CreatePLangStmt": "CREATE LANGUAGE",
    "CreateEventTrigStmt": "CREATE EVENT TRIGGER",
    "AlterEventTrigStmt": "ALTER EVENT TRIGGER",
    "CreatePublicationStmt": "CREATE PUBLICATION",
    "AlterPublicationStmt": "ALTER PUBLICATION",
    "CreateSubscriptionStmt": "CREATE SUBSCRIPTION",
    "AlterSubscriptionStmt": "ALTER SUBSCRIPTION",
    "DropSubscriptionStmt": "DROP SUBSCRIPTION",
}

# What other DDL may name, and what then makes it SYSTEM: object type → name.
SYSTEM_OBJECTS: Final[dict[str, str]] = {
    "OBJECT_DATABASE": "a database",
    "OBJECT_ROLE": "a role",
    "OBJECT_TABLESPACE": "a tablespace",
    "OBJECT_PARAMETER_ACL": "a setting of the server",
    "OBJECT_EXTENSION": "an extension",
    "OBJECT_FDW": "a foreign data wrapper",
    "OBJECT_FOREIGN_SERVER": "a foreign server",
    "OBJECT_USER_MAPPING": "a user mapping",
    "OBJECT_LANGUAGE": "a language",
    "OBJECT_ACCESS_METHOD": "an access method",
    "OBJECT_EVENT_TRIGGER": "an event trigger",
    "OBJECT_PUBLICATION": "a publication",
    "OBJECT_SUBSCRIPTION": "a subscription",
}
# Objects that belong to a relation: the last word names them, those before it the relation.
OF_RELATIONS: Final = frozenset(
    [
        *("OBJECT_COLUMN", "OBJECT_TRIGGER", "OBJECT_RULE", "OBJECT_POLICY"),
        *("OBJECT_TABCONSTRAINT", "OBJECT_DEFAULT"),
    ]
)
OBJECT_FIELDS: Final = ("removeType", "renameType", "objectType", "objtype")

# Nodes whose queries are stored for later, not run now.
BODIES: Final = frozenset({"ViewStmt", "RuleStmt", "CreateFunctionStmt"})

SYSTEM_FUNCTIONS: Final = frozenset(
    [
        "lo_import",
        "lo_export",
        "pg_stat_file",
        "pg_reload_conf",
        "pg_rotate_logfile",
        "pg_switch_wal",
        "pg_promote",
        "pg_cancel_backend",
        "pg_terminate_backend",
        "pg_current_logfile",
        "pg_hba_file_rules",
        "pg_ident_file_mappings",
        "pg_show_all_file_settings",
        "pg_sync_replication_slots",
        "pg_import_system_collations",
        "pg_nextoid",
        "pg_stop_making_pinned_objects",
        "pg_extension_config_dump",
    ]
)
SYSTEM_PREFIXES: Final = (
    *("pg_read_", "pg_ls_", "pg_file_", "pg_logical", "pg_replication_", "pg_create_", "pg_copy_"),
    *("pg_drop_", "pg_backup_", "pg_wal_replay_", "pg_log_", "pg_stat_reset", "pg_clear_"),
    *("pg_restore_", "binary_upgrade_", "dblink"),
)

# Functions that read whatever tables a text names, which is a value to us.
READING_TEXT: Final = frozenset(
    [
        *("query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat"),
        *("table_to_xml", "table_to_xmlschema", "table_to_xml_and_xmlschema", "ts_rewrite"),
        *("schema_to_xml", "schema_to_xmlschema", "schema_to_xml_and_xmlschema"),
        *("database_to_xml", "database_to_xmlschema", "database_to_xml_and_xmlschema"),
    ]
)

LOCKING: Final = frozenset(
    [
        "pg_advisory_lock",
        "pg_advisory_lock_shared",
        "pg_try_advisory_lock",
        "pg_try_advisory_lock_shared",
    ]
)
UNLOCKING: Final = frozenset(
    ["pg_advisory_unlock", "pg_advisory_unlock_shared", "pg_advisory_unlock_all"]
)

# Settings that would make the server read a text otherwise than we do, with the values that do not.
READING: Final[dict[str, frozenset[str]]] = {
    "standard_conforming_strings": frozenset({"on", "true", "yes", "1", "t", "y", "tru", "ye"}),
}
READ_ONLY: Final = frozenset({"transaction_read_only", "default_transaction_read_only"})
TRUE: Final = READING["standard_conforming_strings"]

# Encodings that only clients may use: a byte of a character may be a quote or a backslash there, so
# what we read is not what the server reads (https://www.postgresql.org/docs/18/multibyte.html).
_CLIENT_ONLY: Final = frozenset(
    [
        "sjis",
        "mskanji",
        "shiftjis",
        "win932",
        "windows932",
        "shiftjis2004",
        "big5",
        "win950",
        "windows950",
        "gbk",
        "win936",
        "windows936",
        "uhc",
        "win949",
        "windows949",
        "gb18030",
        "johab",
    ]
)


def client_only_encoding(name: str) -> bool:
    """Whether this client_encoding is one in which SQL cannot be judged."""
    return "".join([c for c in name.lower() if c.isascii() and c.isalnum()]) in _CLIENT_ONLY


def system_function(name: str) -> bool:
    """Whether a function of this name reaches the server's files, processes or other servers."""
    return name in SYSTEM_FUNCTIONS or name.startswith(SYSTEM_PREFIXES)
