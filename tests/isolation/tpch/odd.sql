-- Constructs that a random tree meets too seldom, a query a line. {n} is a number, {t} a condition on orders o.
SELECT c_custkey, c_name, c_comment, {n} FROM customer GROUP BY tenant_id, c_custkey
SELECT c.c_name, count(o) FROM customer c LEFT JOIN orders o ON o_custkey = c_custkey AND {t} GROUP BY c.tenant_id, c.c_custkey
SELECT o.*, count(l_linenumber) FROM orders o LEFT JOIN lineitem l ON l_orderkey = o_orderkey WHERE {t} GROUP BY (o.tenant_id, o.o_orderkey)
SELECT o.tableoid = 'orders'::regclass, o.ctid IS NOT NULL, o.xmin IS NULL, {n} FROM orders o WHERE {t}
SELECT o.tableoid::regclass::text, c.ctid IS NULL FROM customer c LEFT JOIN orders o ON o_custkey = c_custkey AND {t}
SELECT orders.ctid = (SELECT ctid FROM orders x WHERE x.o_orderkey = orders.o_orderkey), {n} FROM orders
WITH a AS (SELECT * FROM orders o WHERE {t}) TABLE a
WITH a AS (TABLE orders), orders AS (SELECT o_orderkey FROM a o WHERE {t}) SELECT * FROM orders, a WHERE a.o_orderkey = orders.o_orderkey
WITH RECURSIVE orders (n, tenant_id) AS (SELECT {n} % 5, 'x' UNION ALL SELECT n + 1, tenant_id FROM orders WHERE n < 7) SELECT * FROM orders
WITH RECURSIVE w (k, path) AS (SELECT o_orderkey, ARRAY[o_orderkey] FROM orders o WHERE {t} UNION ALL SELECT l_linenumber, path || l_linenumber FROM w JOIN lineitem ON l_orderkey = k WHERE NOT l_linenumber = ANY (path)) SELECT * FROM w
WITH RECURSIVE w (k, n) AS (SELECT o_orderkey, 1 FROM orders o WHERE {t} UNION ALL SELECT k % 7, n + 1 FROM w WHERE n < 4) SEARCH DEPTH FIRST BY k SET o CYCLE k SET is_cycle USING path SELECT k, n, is_cycle FROM w
WITH a AS (WITH b AS (WITH c AS (SELECT * FROM orders o WHERE {t}) SELECT * FROM c) SELECT * FROM b) SELECT count(*) FROM a
SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY o_totalprice), mode() WITHIN GROUP (ORDER BY o_orderstatus) FROM orders o WHERE {t}
SELECT rank({n}) WITHIN GROUP (ORDER BY o_orderkey), percentile_cont(ARRAY[0.25, 0.75]) WITHIN GROUP (ORDER BY o_orderkey) FROM orders o WHERE {t}
SELECT grouping(o_orderstatus, o_clerk), o_orderstatus, o_clerk, count(*) FROM orders o WHERE {t} GROUP BY ROLLUP (o_orderstatus, (o_clerk, o_shippriority))
SELECT o_orderstatus, count(*) FROM orders o WHERE {t} GROUP BY ALL GROUPING SETS (ROLLUP (o_orderstatus), CUBE (o_orderstatus)) HAVING count(*) > {n} % 3
SELECT "Key", unnest(tags), generate_series(1, {n} % 4) FROM "Notes"
SELECT n."Key", x.* FROM "Notes" n, ROWS FROM (unnest(tags), generate_series(1, 2)) WITH ORDINALITY AS x (a, b, c) WHERE n."Key" < {n}
SELECT n."Key", e.* FROM "Notes" n CROSS JOIN LATERAL jsonb_each_text(n.doc) AS e WHERE n."Key" <> {n}
SELECT n."Key", r.* FROM "Notes" n, jsonb_to_record(n.doc) AS r (a int, b text) WHERE a < {n}
SELECT n."Key", e FROM "Notes" n LEFT JOIN LATERAL jsonb_array_elements(n.doc -> 'list') AS e ON e <> '{n}'
SELECT n."Key", j.* FROM "Notes" n, JSON_TABLE(n.doc, '$' COLUMNS (a int PATH '$.a', b text PATH '$.b', NESTED PATH '$.list[*]' COLUMNS (item int PATH '$'))) AS j WHERE j.item < {n}
SELECT JSON_VALUE(doc, '$.a' RETURNING int DEFAULT {n} ON EMPTY), JSON_QUERY(doc, '$.list' WITH WRAPPER), JSON_EXISTS(doc, '$.z') FROM "Notes"
SELECT JSON_OBJECT('k': "Key", 't': tags ABSENT ON NULL), JSON_ARRAY("Key", {n} NULL ON NULL), doc IS JSON OBJECT FROM "Notes"
SELECT JSON_ARRAYAGG(o_orderkey ORDER BY o_orderkey), JSON_OBJECTAGG(o_orderkey: o_clerk) IS NULL FROM orders o WHERE {t}
SELECT doc #>> '{{list,1}}', doc @? '$.list[*] ? (@ > {n})', doc @@ '$.a > 2', doc - 'a', jsonb_pretty(doc) FROM "Notes"
SELECT doc['list'][1], tags[1:2], tags[{n} % 3], doc -> 'b' FROM "Notes"
SELECT xmlelement(name row, xmlattributes(o_orderkey AS k), xmlforest(o_clerk AS c))::text FROM orders o WHERE {t}
SELECT o_orderkey FROM orders o WHERE {t} ORDER BY o_orderkey USING > LIMIT 4
SELECT FROM orders o WHERE {t}
SELECT ALL * FROM (orders o CROSS JOIN region) WHERE {t}
SELECT DISTINCT ON (o_custkey, o_orderstatus) o FROM orders o WHERE {t} ORDER BY o_custkey, o_orderstatus, o_orderkey DESC
SELECT (SELECT o), (o).o_clerk, o = o, o IS NOT NULL, ROW(o.*)::text, {n} FROM orders o WHERE {t}
SELECT (c).c_name, (c).* FROM (SELECT c FROM customer c WHERE c.c_custkey < {n}) x
SELECT count(DISTINCT o), max(o.o_orderkey) FROM orders o WHERE {t}
SELECT o_clerk, array_agg(o ORDER BY o_orderkey) FROM orders o WHERE {t} GROUP BY o_clerk
SELECT row_to_json(o), to_json(o.o_orderdate) FROM orders o WHERE {t}
SELECT jsonb_agg(to_jsonb(o) - 'tenant_id' ORDER BY o_orderkey) FROM orders o WHERE {t}
SELECT (SELECT ROW(o_clerk, o_orderkey) FROM orders x WHERE x.o_orderkey = o.o_orderkey) = ROW(o_clerk, o_orderkey) FROM orders o WHERE {t}
SELECT o_orderkey FROM orders o WHERE (o_custkey, o_orderstatus) IN (SELECT o_custkey, 'O' FROM orders) AND {t}
SELECT o_orderkey FROM orders o WHERE o_orderkey IN (VALUES (1), ({n}), (3)) AND EXISTS (TABLE customer)
SELECT o_orderkey FROM orders o WHERE o_custkey NOT IN (SELECT c_custkey FROM customer WHERE c_custkey IS NOT NULL) OR {t}
SELECT o_orderkey, sum(o_totalprice) OVER w, avg(o_shippriority) OVER (w ROWS 2 PRECEDING) FROM orders o WHERE {t} WINDOW w AS (PARTITION BY o_clerk ORDER BY o_orderkey)
SELECT o_orderkey, count(*) FILTER (WHERE o_shippriority = 1) OVER (ORDER BY o_orderdate RANGE BETWEEN interval '{n} days' PRECEDING AND CURRENT ROW) FROM orders o WHERE {t}
SELECT sum(count(*)) OVER (), o_clerk FROM orders o WHERE {t} GROUP BY o_clerk
SELECT U&"o_\006frderkey", U&'d\0061t' FROM public."orders" o WHERE {t}
SELECT "o"."o_orderkey" AS "Order ""Key""" FROM "public"."orders" "o" WHERE {t}
select O.O_ORDERKEY, PUBLIC.CUSTOMER.C_NAME from Orders O, public.Customer where O.o_custkey = CUSTOMER.c_custkey and {t}
SELECT o_orderkey/**/FROM/* -- */orders/* ' */o WHERE{t}--'
SELECT * FROM orders o NATURAL JOIN (SELECT o_orderkey, o_clerk FROM orders) x WHERE {t}
SELECT * FROM customer c JOIN orders o USING (tenant_id) JOIN lineitem l USING (tenant_id) WHERE o_custkey = c_custkey AND l_orderkey = o_orderkey AND {t}
SELECT tenant_id, count(*) FROM customer FULL JOIN orders o USING (tenant_id) WHERE {t} GROUP BY tenant_id
SELECT * FROM (customer c LEFT JOIN (orders o JOIN lineitem l ON l_orderkey = o_orderkey AND {t}) ON o_custkey = c_custkey) RIGHT JOIN nation ON n_nationkey = c_nationkey
SELECT * FROM customer c LEFT JOIN orders o LEFT JOIN lineitem l ON l_orderkey = o_orderkey ON o_custkey = c_custkey AND {t}
SELECT j.c_name, j.o_clerk FROM (customer c FULL JOIN orders o ON o_custkey = c_custkey AND o_shippriority = {n} % 2) AS j
SELECT j.* FROM (customer c JOIN orders o ON o_custkey = c_custkey AND {t}) AS j (a, b, c)
SELECT a.c_name, s.n FROM customer a, LATERAL (SELECT count(*) AS n FROM orders o WHERE o_custkey = a.c_custkey AND {t}) s, LATERAL (SELECT s.n + {n}) z
SELECT * FROM lineitem_0 WHERE l_orderkey < {n} UNION ALL SELECT * FROM ONLY lineitem_1
SELECT * FROM open_orders v FULL JOIN orders o USING (tenant_id, o_orderkey) WHERE {t}
SELECT v FROM open_orders AS v (tenant, k) WHERE k < {n}
(SELECT o_orderkey FROM orders o WHERE {t} ORDER BY 1 LIMIT 3) UNION ALL (SELECT o_orderkey FROM orders ORDER BY o_orderkey DESC LIMIT 2) ORDER BY 1
((SELECT o_orderkey FROM orders o WHERE {t}) EXCEPT (SELECT l_orderkey FROM lineitem WHERE l_linenumber = 2)) INTERSECT SELECT l_orderkey FROM lineitem
((TABLE nation)) UNION (SELECT {n}, 'x', 1, NULL)
SELECT (SELECT count(*)::int FROM region) + o_orderkey FROM orders o WHERE {t}
SELECT CASE WHEN EXISTS (SELECT 1 FROM lineitem WHERE l_orderkey = o_orderkey) THEN (SELECT max(l_net) FROM lineitem WHERE l_orderkey = o_orderkey) END FROM orders o WHERE {t}
SELECT coalesce((SELECT c_name FROM customer WHERE c_custkey = o_custkey), 'nobody') COLLATE "C" FROM orders o WHERE {t}
SELECT o_orderkey FROM orders o WHERE o_totalprice > ALL (SELECT l_extendedprice FROM lineitem WHERE l_orderkey = o_orderkey) AND {t}
SELECT o_orderkey FROM orders o WHERE NOT EXISTS (SELECT FROM lineitem l WHERE l_orderkey = o_orderkey AND NOT EXISTS (SELECT FROM part WHERE p_partkey = l_partkey)) AND {t}
SELECT array(SELECT l_linenumber FROM lineitem WHERE l_orderkey = o_orderkey ORDER BY 1), ARRAY[[o_orderkey, {n}], [1, 2]] FROM orders o WHERE {t}
SELECT to_char(o_orderdate, 'Day DD Mon YYYY'), age(o_orderdate, DATE '1990-01-01'), extract(epoch FROM o_orderdate), justify_days(interval '{n} days'), o_orderdate AT TIME ZONE 'UTC' FROM orders o WHERE {t}
SELECT date_part('year', o_orderdate), date_bin('7 days', o_orderdate, DATE '1990-01-01'), o_orderdate::timestamptz(0), isfinite(o_orderdate), make_interval(days => {n}) FROM orders o WHERE {t}
SELECT d::date, count(o) FROM generate_series(DATE '1993-01-01', DATE '1996-12-01', interval '1 year') d LEFT JOIN orders o ON date_trunc('year', o_orderdate) = d AND {t} GROUP BY 1
SELECT daterange(l_shipdate, l_receiptdate) && daterange('1994-01-01', '1995-01-01'), upper(daterange(l_shipdate, NULL)), width_bucket(l_quantity, 0, 50, 5) FROM lineitem WHERE l_orderkey < {n}
SELECT range_agg(daterange(o_orderdate, o_orderdate + {n})) FROM orders o WHERE {t}
SELECT to_tsvector('simple', o_comment) @@ to_tsquery('simple', 'special & requests'), ts_rank(to_tsvector('simple', coalesce(o_comment, '')), 'green') FROM orders o WHERE {t}
SELECT regexp_matches(c_name, '([0-9]+)', 'g'), regexp_split_to_array(c_name, '#'), string_to_table(c_comment, ' ') FROM customer WHERE c_custkey < {n}
SELECT encode(sha256(c_name::bytea), 'hex'), md5(c_name), ascii(c_name), chr(64 + c_custkey), to_hex(c_custkey), translate(c_name, 'C#', 'c-') FROM customer WHERE c_custkey < {n}
SELECT c_acctbal::money::text, c_acctbal::float8, c_custkey::bigint, c_custkey::bit(8), c_name::name, c_name::varchar(4), c_custkey::regclass IS NULL FROM customer WHERE c_custkey < {n}
SELECT pg_typeof(o), pg_typeof(o_orderkey), pg_typeof(o_orderdate + 1), {n} FROM orders o WHERE {t}
SELECT current_database() IS NOT NULL, current_schema, current_date - current_date, now() = transaction_timestamp(), {n}
SELECT NULL, TRUE, 1e{n}, 0x1F, 1_000, $$a$$, B'101', X'1F', interval '1 day', ''
SELECT o_orderkey FROM orders o WHERE {t} FOR UPDATE OF o SKIP LOCKED
SELECT c_name, o_clerk FROM customer c JOIN orders o ON o_custkey = c_custkey WHERE {t} FOR SHARE OF c FOR UPDATE OF o NOWAIT
SELECT x.k FROM (SELECT o_orderkey AS k FROM orders o WHERE {t} FOR UPDATE) x
SELECT o_orderkey FROM orders o TABLESAMPLE BERNOULLI (100) REPEATABLE ({n}) WHERE {t}
SELECT o_orderkey FROM orders AS o (o_orderkey, o_custkey, o_orderstatus, o_totalprice, o_orderdate, o_orderpriority, o_clerk, o_shippriority, o_comment, tenant_id) WHERE {t}
SELECT * FROM orders AS o (tenant_id, k, o_orderkey) FULL JOIN customer AS c (x, y) ON y = k WHERE o.o_orderkey <> '{n}'
SELECT o_orderkey IS NULL, merged FROM orders o FULL JOIN customer ON o_custkey = c_custkey, LATERAL (SELECT coalesce(o.tenant_id, 'none') AS merged) m
SELECT max(o_orderkey) FROM orders o WHERE {t} GROUP BY () HAVING true
SELECT DISTINCT tenant_id FROM supplier WHERE s_suppkey < {n} UNION SELECT tenant_id FROM "Notes"
SELECT any_value(o_clerk) IS NULL, every(o_orderkey > 0), bit_or(o_orderkey), corr(o_orderkey, o_orderkey), regr_count(o_orderkey, o_custkey) FROM orders o WHERE {t}
SELECT lag(o_orderkey, 1, {n}) OVER (ORDER BY o_orderkey), percent_rank() OVER (ORDER BY o_orderkey), cume_dist() OVER (ORDER BY o_clerk), last_value(o_orderkey) OVER (ORDER BY o_orderkey) FROM orders o WHERE {t}
