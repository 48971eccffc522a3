-- Writes that a random tree meets too seldom, a statement a line. {n} is a number.
INSERT INTO supplier VALUES (DEFAULT, {n}00)
INSERT INTO part VALUES ({n}000, 'x') RETURNING *
INSERT INTO "Notes" VALUES ({n}), ({n} + 1) RETURNING tenant_id
INSERT INTO "Notes" DEFAULT VALUES RETURNING "Notes".*
INSERT INTO supplier (s_suppkey, s_name) SELECT g, 'g' || g FROM generate_series({n}00, {n}02) g RETURNING *
INSERT INTO supplier (s_suppkey, s_name, tenant_id) VALUES ({n}00, 'n{n}', DEFAULT), ({n}01, NULL, DEFAULT)
INSERT INTO supplier (s_suppkey, s_name, tenant_id) SELECT s_suppkey + {n}00, s_name || '{n}', tenant_id FROM supplier RETURNING s_suppkey
INSERT INTO orders (o_orderkey) VALUES ({n}000), ({n}001) ON CONFLICT DO NOTHING
INSERT INTO customer AS c (c_custkey, c_name) VALUES ({n}, 'x') ON CONFLICT (tenant_id, c_custkey) DO UPDATE SET (c_name, c_comment) = (excluded.c_name, c.c_comment || 'y') WHERE c.c_custkey IN (SELECT o_custkey FROM orders) RETURNING c.*, (c).c_name
INSERT INTO customer (c_custkey, c_name) VALUES ({n}, 'x'), ({n} + 1, 'y') ON CONFLICT (tenant_id, c_custkey) DO UPDATE SET c_name = (SELECT max(s_name) FROM supplier WHERE s_suppkey = excluded.c_custkey), tenant_id = DEFAULT
INSERT INTO "Notes" ("Key") SELECT o_orderkey FROM orders ORDER BY o_orderkey LIMIT {n} FOR UPDATE
INSERT INTO "Notes" (SELECT * FROM "Notes" WHERE "Key" < {n})
INSERT INTO "Notes" SELECT x.* FROM "Notes" x LEFT JOIN part ON p_partkey = "Key" WHERE p_size < {n}
INSERT INTO "Notes" ("Key", tags) VALUES ({n}, ARRAY(SELECT c_name FROM customer ORDER BY c_custkey))
INSERT INTO "Notes" ("Key", tenant_id, doc) WITH a AS (SELECT * FROM part) SELECT p_partkey, tenant_id, to_jsonb(a) FROM a WHERE p_size > {n} % 9
INSERT INTO "Notes" ("Key") (SELECT {n} EXCEPT SELECT o_orderkey FROM orders) UNION ALL (VALUES ({n}), (2)) UNION ALL (SELECT c_custkey FROM customer ORDER BY 1 LIMIT 2)
INSERT INTO partsupp TABLE partsupp
INSERT INTO partsupp (ps_partkey, tenant_id) SELECT DISTINCT ON (p_size) p_partkey, tenant_id FROM part ORDER BY p_size, p_partkey
INSERT INTO partsupp (ps_partkey, ps_availqty) SELECT p_partkey, count(*) OVER w FROM part WINDOW w AS (ORDER BY p_partkey) RETURNING ps_partkey + ps_availqty
INSERT INTO lineitem (l_orderkey, l_linenumber, l_quantity, l_net) VALUES ({n}, 9, 1, DEFAULT) RETURNING l_net
INSERT INTO lineitem (l_orderkey, l_linenumber, l_quantity, l_extendedprice, l_discount) SELECT o_orderkey, 8, 1, o_totalprice, 0.1 FROM orders WHERE o_orderkey < {n} RETURNING l_net, tenant_id
UPDATE orders o SET o_comment = s.c FROM (SELECT o_custkey AS k, count(*)::text AS c FROM orders GROUP BY 1) s WHERE s.k = o.o_custkey RETURNING o.o_comment, s.*
UPDATE lineitem l SET l_comment = p_name || c_name FROM orders o JOIN customer c ON c_custkey = o_custkey LEFT JOIN part ON p_partkey = {n} WHERE o_orderkey = l_orderkey
UPDATE lineitem SET l_tax = l_tax + 0.01, l_discount = 0 WHERE l_orderkey < {n} RETURNING l_net, old.l_net
UPDATE ONLY orders AS o SET o_clerk = DEFAULT WHERE o.o_orderkey = {n}
UPDATE orders SET o_comment = orders.o_clerk FROM customer orders_of WHERE orders_of.c_custkey = o_custkey AND orders_of.c_acctbal > {n}
UPDATE customer SET c_custkey = c_custkey + 5000 WHERE c_custkey = {n} % 12
UPDATE "Notes" SET tags[1] = 'z', doc['a'] = '7' WHERE "Key" = {n} % 9 RETURNING tags, doc
UPDATE supplier SET (s_comment, s_address) = (SELECT max(c_name), count(*)::text FROM customer WHERE c_nationkey = s_nationkey) WHERE s_suppkey < {n}
UPDATE supplier SET s_comment = CASE WHEN tenant_id = 'acme' THEN 'a' WHEN s_suppkey > {n} THEN 'b' END WHERE EXISTS (SELECT FROM partsupp WHERE ps_suppkey = s_suppkey)
WITH top AS (SELECT o_orderkey AS k FROM orders ORDER BY o_totalprice DESC, o_orderkey LIMIT {n}) UPDATE orders SET o_comment = 'top' FROM top WHERE k = o_orderkey RETURNING orders
DELETE FROM lineitem USING orders o LEFT JOIN customer c ON c_custkey = o_custkey WHERE l_orderkey = o_orderkey AND c_custkey IS NULL RETURNING lineitem.*
DELETE FROM customer WHERE c_custkey = {n} % 12 RETURNING *
DELETE FROM orders o WHERE NOT EXISTS (SELECT FROM lineitem WHERE l_orderkey = o.o_orderkey) AND o_orderkey < {n}
DELETE FROM "Notes" n WHERE n.ctid IN (SELECT min(ctid) FROM "Notes" m GROUP BY "Key" HAVING count(*) > 1)
DELETE FROM ONLY part AS p WHERE p.p_partkey = {n} OR (p).p_size = 1 RETURNING p
WITH RECURSIVE r (k) AS (SELECT {n} UNION ALL SELECT k + 1 FROM r WHERE k < 20) DELETE FROM partsupp USING r WHERE ps_partkey = k
WITH d AS (DELETE FROM orders WHERE o_orderkey = {n} RETURNING *), i AS (INSERT INTO "Notes" ("Key", doc) SELECT o_orderkey, to_jsonb(d) FROM d RETURNING *) SELECT i.*, (SELECT count(*) FROM orders) FROM i
WITH i AS (INSERT INTO customer (c_custkey) VALUES ({n}00) RETURNING c_custkey), o AS (INSERT INTO orders (o_orderkey, o_custkey) SELECT c_custkey, c_custkey FROM i RETURNING *) TABLE o
MERGE INTO lineitem l USING (SELECT * FROM orders FULL JOIN customer ON o_custkey = c_custkey) s ON l.l_orderkey = s.o_orderkey AND l_linenumber = 1 WHEN MATCHED THEN UPDATE SET l_comment = s.c_name WHEN NOT MATCHED BY SOURCE AND l_tax > 0.04 THEN DELETE
MERGE INTO "Notes" USING part ON "Key" = p_partkey AND p_size > {n} % 9 WHEN NOT MATCHED THEN INSERT VALUES (p_partkey, DEFAULT, p_name)
MERGE INTO "Notes" n USING (SELECT {n} AS k) s ON n."Key" = s.k WHEN NOT MATCHED THEN INSERT DEFAULT VALUES RETURNING merge_action(), n.*
MERGE INTO customer c USING customer s ON c.c_custkey = s.c_custkey + 3 WHEN MATCHED AND c.c_acctbal > s.c_acctbal THEN DELETE WHEN MATCHED THEN UPDATE SET c_comment = s.c_comment, tenant_id = c.tenant_id RETURNING merge_action(), old.c_comment, new.c_comment
MERGE INTO part p USING (part q JOIN partsupp ON ps_partkey = q.p_partkey AND ps_suppkey = {n} % 7) ON p.p_partkey = q.p_partkey + 900 WHEN NOT MATCHED AND ps_availqty IS NULL THEN DO NOTHING WHEN NOT MATCHED BY SOURCE AND p.p_size = {n} % 15 THEN UPDATE SET p_comment = 'alone'
WITH s AS (SELECT c_custkey AS k, c_name AS a FROM customer) MERGE INTO supplier USING s ON s_suppkey = k WHEN MATCHED AND EXISTS (SELECT FROM partsupp WHERE ps_suppkey = k) THEN UPDATE SET (s_comment, tenant_id) = (a, DEFAULT) WHEN NOT MATCHED BY TARGET THEN INSERT (s_suppkey, s_name, tenant_id) VALUES (k, a || {n}, DEFAULT)
