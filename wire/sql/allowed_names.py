"""Names of PostgreSQL's own that tenants beside others may use, gone through one by one.

The functions are those of PostgreSQL 15 to 18 that compute, describe definitions, or say something
of the caller's own session. Left out, besides what nobody calls by name (the functions behind
operators, types, indexes and aggregates):

- what runs SQL text or reads a table that an argument names: query_to_xml, table_to_xml,
  cursor_to_xml and their kin, ts_stat, ts_rewrite, currtid2
- what tells of others' rows or work: sizes of relations, pg_stat_*, pg_sequence_last_value, locks,
  snapshots, commit times, write-ahead log, notification queue
- what others share and would feel: setval, pg_stat_reset*, backends, replication, backups, files,
  large objects, brin_* and gin_* maintenance
- setseed, whose effect outlives the session's hand-over, and set_config (see allowed.py)
"""

from __future__ import annotations

from typing import Final

_PLAIN: Final = """
abbrev abs acos acosd acosh age area array_append array_cat array_dims array_fill array_length
array_lower array_ndims array_position array_positions array_prepend array_remove array_replace
array_reverse array_sample array_shuffle array_sort array_to_string array_to_tsvector array_upper
arraycontained arraycontains arrayoverlap ascii asin asind asinh atan atan2 atan2d atand atanh bit
bit_count bit_length bool bound_box box bpchar broadcast btrim bytea cardinality casefold
cash_words cbrt ceil ceiling center char char_length character_length chr cidr circle
clock_timestamp concat concat_ws convert convert_from convert_to cos cosd cosh cot cotd crc32
crc32c date date_add date_bin date_part date_subtract date_trunc datemultirange daterange decode
degrees diagonal diameter div encode enum_first enum_last enum_range erf erfc exp extract
factorial family float4 float8 floor format gamma gcd gen_random_uuid generate_series
generate_subscripts get_bit get_byte hash_numeric hashint2 hashint4 hashint4extended hashint8
hashint8extended hashtext hashtextextended height host hostmask inet_merge inet_same_family
initcap int2 int4 int4multirange int4range int8 int8multirange int8range interval is_normalized
isclosed isempty isfinite ishorizontal isopen isparallel isperp isvertical justify_days
justify_hours justify_interval lcm left length lgamma like like_escape line ln log log10 lower
lower_inc lower_inf lpad lseg ltrim macaddr macaddr8 macaddr8_set7bit make_date make_interval
make_time make_timestamp make_timestamptz masklen md5 min_scale mod money multirange name netmask
network normalize notlike now npoints num_nonnulls num_nulls numeric numeric_div_trunc numeric_exp
numeric_ln numeric_log numeric_sqrt nummultirange numnode numrange octet_length oid overlaps
overlay path pclose phraseto_tsquery pi plainto_tsquery point polygon popen position pow power
querytree quote_ident quote_literal quote_nullable radians radius random random_normal
range_contains range_merge range_overlaps regexp_count regexp_instr regexp_like regexp_match
regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr repeat
replace reverse right round rpad rtrim scale set_bit set_byte set_masklen setweight sha224 sha256
sha384 sha512 sign similar_escape similar_to_escape sin sind sinh slope split_part sqrt
starts_with statement_timestamp string_to_array string_to_table strip strpos substr substring tan
tand tanh text textcat texticlike textlen textregexeq time timeofday timestamp timestamptz timetz
timezone to_ascii to_bin to_char to_date to_hex to_number to_oct to_timestamp to_tsquery
to_tsvector transaction_timestamp translate trim_array trim_scale trunc ts_debug ts_delete
ts_filter ts_headline ts_lexize ts_parse ts_rank ts_rank_cd ts_token_type tsmultirange
tsquery_phrase tsrange tstzmultirange tstzrange tsvector_to_array unicode_assigned unicode_version
unistr unnest upper upper_inc upper_inf uuid_extract_timestamp uuid_extract_version uuid_hash
uuidv4 uuidv7 varbit varchar websearch_to_tsquery width width_bucket xid
"""

_JSON_XML: Final = """
array_to_json json_array_element json_array_element_text json_array_elements
json_array_elements_text json_array_length json_build_array json_build_object json_each
json_each_text json_extract_path json_extract_path_text json_object json_object_field
json_object_field_text json_object_keys json_populate_record json_populate_recordset
json_strip_nulls json_to_record json_to_recordset json_to_tsvector json_typeof
jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array
jsonb_build_object jsonb_concat jsonb_contains jsonb_delete jsonb_delete_path jsonb_each
jsonb_each_text jsonb_exists jsonb_exists_all jsonb_exists_any jsonb_extract_path
jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_keys jsonb_path_exists
jsonb_path_exists_tz jsonb_path_match jsonb_path_match_tz jsonb_path_query jsonb_path_query_array
jsonb_path_query_array_tz jsonb_path_query_first jsonb_path_query_first_tz jsonb_path_query_tz
jsonb_populate_record jsonb_populate_record_valid jsonb_populate_recordset jsonb_pretty jsonb_set
jsonb_set_lax jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_to_tsvector jsonb_typeof
row_to_json to_json to_jsonb xml xml_is_well_formed xml_is_well_formed_content
xml_is_well_formed_document xmlcomment xmlexists xmltext xpath xpath_exists
"""

_AGGREGATES_WINDOWS: Final = """
any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp
cume_dist dense_rank every first_value json_agg json_agg_strict json_object_agg
json_object_agg_strict json_object_agg_unique json_object_agg_unique_strict jsonb_agg
jsonb_agg_strict jsonb_object_agg jsonb_object_agg_strict jsonb_object_agg_unique
jsonb_object_agg_unique_strict lag last_value lead max min mode nth_value ntile percent_rank
percentile_cont percentile_disc range_agg range_intersect_agg rank regr_avgx regr_avgy regr_count
regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy row_number stddev stddev_pop
stddev_samp string_agg sum var_pop var_samp variance xmlagg
"""

# Of the catalog and of the session. Advisory locks and channels get namespaces (namespaces.py).
_CATALOG: Final = """
acldefault aclexplode col_description current_database current_query current_schema
current_schemas current_setting current_user currval format_type get_current_ts_config
getdatabaseencoding has_any_column_privilege has_column_privilege has_function_privilege
has_language_privilege has_schema_privilege has_sequence_privilege has_table_privilege
has_type_privilege icu_unicode_version inet_client_addr inet_client_port inet_server_addr
inet_server_port lastval nextval obj_description oidvectortypes parse_ident pg_advisory_lock
pg_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_all pg_advisory_unlock_shared
pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_available_extensions pg_backend_pid
pg_basetype pg_char_to_encoding pg_client_encoding pg_collation_for pg_collation_is_visible
pg_column_compression pg_column_is_updatable pg_column_size pg_conf_load_time
pg_conversion_is_visible pg_current_xact_id pg_current_xact_id_if_assigned pg_describe_object
pg_encoding_max_length pg_encoding_to_char pg_function_is_visible pg_get_constraintdef pg_get_expr
pg_get_function_arg_default pg_get_function_arguments pg_get_function_identity_arguments
pg_get_function_result pg_get_function_sqlbody pg_get_functiondef pg_get_indexdef pg_get_keywords
pg_get_partition_constraintdef pg_get_partkeydef pg_get_ruledef pg_get_serial_sequence
pg_get_statisticsobjdef pg_get_statisticsobjdef_columns pg_get_statisticsobjdef_expressions
pg_get_triggerdef pg_get_userbyid pg_get_viewdef pg_has_role pg_index_column_has_property
pg_index_has_property pg_indexam_has_property pg_input_error_info pg_input_is_valid
pg_is_in_recovery pg_is_other_temp_schema pg_jit_available pg_listening_channels pg_lsn
pg_my_temp_schema pg_notify pg_opclass_is_visible pg_operator_is_visible pg_opfamily_is_visible
pg_options_to_table pg_partition_ancestors pg_partition_root pg_partition_tree
pg_postmaster_start_time pg_relation_is_publishable pg_relation_is_updatable
pg_sequence_parameters pg_settings_get_flags pg_size_bytes pg_size_pretty pg_sleep pg_sleep_for
pg_sleep_until pg_statistics_obj_is_visible pg_table_is_visible pg_timezone_abbrevs
pg_timezone_abbrevs_abbrevs pg_timezone_abbrevs_zone pg_timezone_names pg_trigger_depth
pg_try_advisory_lock pg_try_advisory_lock_shared pg_try_advisory_xact_lock
pg_try_advisory_xact_lock_shared pg_ts_config_is_visible pg_ts_dict_is_visible
pg_ts_parser_is_visible pg_ts_template_is_visible pg_type_is_visible pg_typeof regclass
row_security_active session_user system_user to_regclass to_regcollation to_regnamespace
to_regoper to_regoperator to_regproc to_regprocedure to_regtype to_regtypemod txid_current
txid_current_if_assigned version
"""

FUNCTIONS: Final = frozenset(
    _PLAIN.split() + _JSON_XML.split() + _AGGREGATES_WINDOWS.split() + _CATALOG.split()
)

_INFORMATION_FUNCTIONS: Final = """
_pg_char_max_length _pg_char_octet_length _pg_datetime_precision _pg_expandarray
_pg_index_position _pg_interval_type _pg_numeric_precision _pg_numeric_precision_radix
_pg_numeric_scale _pg_truetypid _pg_truetypmod
"""
INFORMATION_FUNCTIONS: Final = frozenset(_INFORMATION_FUNCTIONS.split())

# Definitions, and the caller's own settings and cursors. Not: roles and databases (names of other
# tenants; see masked.py), settings of roles, statistics, activity, locks, large objects, what the
# replication and foreign servers know, prepared statements (of the server connection, which row
# tenants share), pg_sequences (it has last values).
_RELATIONS: Final = """
pg_aggregate pg_am pg_amop pg_amproc pg_attrdef pg_attribute pg_available_extensions pg_cast
pg_class pg_collation pg_constraint pg_conversion pg_cursors pg_depend pg_description pg_enum
pg_event_trigger pg_extension pg_index pg_indexes pg_inherits pg_language pg_matviews pg_namespace
pg_opclass pg_operator pg_opfamily pg_partitioned_table pg_policies pg_policy pg_proc
pg_publication pg_publication_namespace pg_publication_rel pg_publication_tables pg_range
pg_rewrite pg_rules pg_sequence pg_settings pg_statistic_ext pg_tables pg_tablespace
pg_timezone_abbrevs pg_timezone_names pg_transform pg_trigger pg_ts_config pg_ts_config_map
pg_ts_dict pg_ts_parser pg_ts_template pg_type pg_views
"""
RELATIONS: Final = frozenset(_RELATIONS.split())

# For tenants with a role and a schema of their own: PostgreSQL itself shows each role its own only,
# or definitions.
_OWN_RELATIONS: Final = """
pg_available_extension_versions pg_default_acl pg_foreign_data_wrapper pg_foreign_table
pg_init_privs pg_prepared_statements pg_seclabel pg_seclabels pg_sequences pg_stats pg_stats_ext
pg_stats_ext_exprs
"""
OWN_RELATIONS: Final = frozenset(_OWN_RELATIONS.split())

# All but those of foreign servers and user mappings.
_INFORMATION_RELATIONS: Final = """
administrable_role_authorizations applicable_roles attributes character_sets
check_constraint_routine_usage check_constraints collation_character_set_applicability collations
column_column_usage column_domain_usage column_options column_privileges column_udt_usage columns
constraint_column_usage constraint_table_usage data_type_privileges domain_constraints
domain_udt_usage domains element_types enabled_roles foreign_tables
information_schema_catalog_name key_column_usage parameters referential_constraints
role_column_grants role_routine_grants role_table_grants role_udt_grants role_usage_grants
routine_column_usage routine_privileges routine_routine_usage routine_sequence_usage
routine_table_usage routines schemata sequences sql_features sql_implementation_info sql_parts
sql_sizing table_constraints table_privileges tables transforms triggered_update_columns triggers
udt_privileges usage_privileges user_defined_types view_column_usage view_routine_usage
view_table_usage views
"""
INFORMATION_RELATIONS: Final = frozenset(_INFORMATION_RELATIONS.split())

# What a session may set without taking anything from its neighbours: how values look, how long
# things may take, how its own queries are planned. Not: memory, parallel workers, tablespaces,
# what is loaded, what the proxy's connection depends on, and debug output, which tells estimates.
_SETTINGS: Final = """
application_name array_nulls backslash_quote bytea_output check_function_bodies client_encoding
client_min_messages constraint_exclusion cpu_index_tuple_cost cpu_operator_cost cpu_tuple_cost
cursor_tuple_fraction datestyle default_text_search_config default_toast_compression
default_transaction_deferrable default_transaction_isolation default_transaction_read_only
effective_cache_size enable_async_append enable_bitmapscan enable_distinct_reordering
enable_gathermerge enable_group_by_reordering enable_hashagg enable_hashjoin
enable_incremental_sort enable_indexonlyscan enable_indexscan enable_material enable_memoize
enable_mergejoin enable_nestloop enable_parallel_append enable_parallel_hash
enable_partition_pruning enable_partitionwise_aggregate enable_partitionwise_join
enable_presorted_aggregate enable_self_join_elimination enable_seqscan enable_sort enable_tidscan
escape_string_warning extra_float_digits from_collapse_limit geqo geqo_effort geqo_generations
geqo_pool_size geqo_seed geqo_selection_bias geqo_threshold gin_fuzzy_search_limit
idle_in_transaction_session_timeout intervalstyle jit jit_above_cost jit_inline_above_cost
jit_optimize_above_cost join_collapse_limit lc_monetary lc_numeric lc_time lock_timeout names
parallel_leader_participation parallel_setup_cost parallel_tuple_cost plan_cache_mode
quote_all_identifiers random_page_cost recursive_worktable_factor search_path seq_page_cost
session characteristics standard_conforming_strings statement_timeout synchronize_seqscans
synchronous_commit timezone transaction transaction_deferrable transaction_isolation
transaction_read_only transaction_timeout xmlbinary xmloption
"""
SETTINGS: Final = frozenset(
    [*_SETTINGS.replace("session characteristics", "").split(), "session characteristics"]
)
