-- Statements that PostgreSQL's parser and sqlglot must read alike, one a line.
select 1
select * from t /* x /* nested */ y */ where a=1
select * from only t
select * from only (t)
table t
table s.t
table only t
select * from t *
select * from s.t * as x
select * from rows from (generate_series(1,2), f(3)) with ordinality as x(a,b)
select * from t, lateral (select * from u where u.a=t.a) x
select * from lateral f(1) as x
select * from U&"d\0061t\+000061"
select * from U&"d!0061t" uescape '!'
select U&'d\0061', e'a\'b', $$ from x $$, $a$ $$ from y $$ $a$ from t
select a operator(pg_catalog.=) 1 from t
select a operator(pg_catalog.+) b.c from t where a operator(pg_catalog.=) 'x'::pg_catalog.text
merge into t using s on t.a=s.a when matched then update set b=s.b when not matched then insert values (1,2)
merge into only t as x using (select * from z) s on x.a=s.a when not matched by source then delete when not matched then do nothing returning merge_action(), x.*
select * from f(1) with ordinality
select * from unnest(array[1,2]) with ordinality as x(a,b), t
with d as (delete from t returning *) select * from d
with d as (insert into t values (1) returning *), e as (update u set a=1 returning *) select * from d, e, v
update t set a=u.a from u where u.b=t.b
update only t as x set (a,b)=(select 1,2 from z) from u join w using (id)
delete from t using u, v where t.a=u.a
delete from only t as x using u returning *
select * from t for update of t
select * from t x for no key update of x skip locked
select * from t tablesample bernoulli (10) repeatable (2)
values (1,2),(3,4)
with x as (values (1)) table x
(select 1 from a) union all (select 2 from b) order by 1 limit 1
select * from ((a join b using (i)) as j cross join c)
select exists (select from t)
select from t
insert into t default values
insert into t as x (a,b) overriding system value values (1,default) on conflict (a) where a>1 do update set b=excluded.b where x.a=1 returning *
insert into t select * from u
insert into t table u
insert into t (select * from u)
insert into s.t with x as (select * from z) select * from x
with x as (select 1) insert into t select * from x
select array(select a from t)
select * from t where a = any(select b from u)
select * from t group by rollup(a), cube(b), grouping sets ((a),(b))
select sum(a) filter (where b) over (partition by c order by d rows between 1 preceding and current row exclude ties) from t
select sum(a) over w from t window w as (partition by a)
select x.y.z from x.y
select (t.c).f, (t).* from t
select * from t where (a,b) in (select 1,2 from u)
select * from t where (a,b) overlaps (c,d)
select extract(epoch from a), position('a' in b), substring(a from 1 for 2), trim(both 'x' from a), overlay(a placing b from 1), cast(a as int[]), a at time zone 'utc' from t
select * from xmltable('/x' passing (select d from docs) columns a int path 'a') x
select * from json_table('{}', '$' columns (a int path '$.a')) j
select json_object('a': b) from t
select json_query(a, '$.x' returning text) from t
select a is distinct from b, a is not null, a isnull, a notnull, a between symmetric 1 and 2, a similar to 'x', a ilike 'y', a !~ 'z' from t
select interval '1 day', date '2020-01-01', timestamp with time zone '2020-01-01', interval '1' day from t
select $1, $2::int from t where a = $1
select a[1], a[1:2], a[:], (array[1,2])[1] from t
with recursive r(n) as (select 1 union all select n+1 from r where n<5) search depth first by n set o cycle n set c using p select * from r
with x as materialized (select * from t) select * from x
select * from t order by a using <, b nulls first fetch first 3 rows with ties
select * from t limit all offset 3 rows
select distinct on (a) a from t
select * into n from t
select all a from t
select * from t natural join u
select * from t full outer join u on true
select count(*) from t having count(*)>1
select case a when 1 then (select 2 from u) else 3 end from t
select * from "T", T, "a b"."c""d"
select * from aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
select current_user, session_user, current_date, localtime, user
select * from current_date
select * from generate_series(1,3) g, t as g2(a,b)
select * from f() as (a int, b text)
select t from t
select nullif(a,b), coalesce(a), greatest(a,b), row(a,b), row(t.*) from t
select percentile_cont(0.5) within group (order by a) from t
select string_agg(a, ',' order by b) from t
update t set a = default, b[1]=2, c.d=3 where current of cur
delete from t where current of cur
select a b from t
select a "b" from t
select 1 as select_ from t as "select"
select a->>'b', a#>>'{c}', a @> b, a ? 'c', a ?| array['x'], a @? '$.x', a<->b, a ~~ b, !!a, |/ 4, @ -5 from t
select ~a, -a, +a from t
select * from t where not a
select - - 1
select 1--x
select 1_000, 0xff, 0b11, 0o7, 1e5, .5, 5. from t
select a::numeric(10,2), a::"char", a::s.ty, a::int[], a::varchar(3)[][] , a::timestamp(3) with time zone, double precision '1', bit '1', B'1', X'ff' from t
select x from t where x like 'a' escape '!'
select * from t where a in (1,2) and b not in (select c from u)
select grouping(a) from t group by a
select t.* from a.t
select * from t inner join lateral (select 1) x on true left join lateral f(t.a) y on true
select "a"."b" from "a"
select * from t as x (a, b)
select * from s.f(1)
select * from s.f(1) as x, s.t
with t as (select * from t) select * from t
with a as (select * from b), b as (select 1) select * from a, b
select (with x as (select 1 from u) select * from x) from x
select * from t where exists (with t as (select 1) select * from t)
select * from (select * from x) t join (values (1)) as v(a) on true
select * from (table t) x
select * from s.t where s.t.a = 1
insert into t(a) values ((select b from u))
select a from t union select a from u except select a from w intersect table z
select json_value(a, '$.x' returning int default 0 on empty error on error) from t
select json_exists(a, '$.x' error on error), json_array(1,2 absent on null returning jsonb), json_arrayagg(a order by b), json_objectagg(a: b) from t
select json_object('a': (select x from u), 'b' value 2 absent on null with unique keys returning jsonb) from t
select json_query(a, '$' with wrapper keep quotes) from t
select json('{}'), json_scalar(1), json_serialize(a returning text) from t
select * from t, json_table(t.j, '$[*]' as p passing 1 as x columns (id for ordinality, a int path '$.a' default 1 on empty, b text exists path '$.b', nested path '$.c[*]' columns (d int))) as jt
select a is json, a is json object with unique keys, a is not json array, a is normalized, a is nfc normalized from t
select xmlelement(name foo, xmlattributes(a as b), 'c'), xmlforest(a, b as c), xmlconcat(a,b), xmlpi(name php, 'x'), xmlserialize(content a as text), xmlparse(document a), xmlexists('//a' passing by ref a), xmlagg(a order by b) from t
select * from xmltable(xmlnamespaces('http://x' as x), '/x:a' passing a.doc columns id for ordinality, b int path 'b' not null, c text default 'x') as y, a
select a from t order by b desc nulls last limit 5 offset 2
select a from t fetch next row only
select a from t order by a fetch first 3 rows with ties
select a from t offset 2 rows fetch first (1+1) rows only
select * from t for share of t nowait
select * from t, u for update of t, u skip locked
select * from t for key share for update
select count(*) filter (where a) over (order by b groups between unbounded preceding and current row exclude no others) from t
select first_value(a) over w, lag(a, 1) over (w rows unbounded preceding) from t window w as (partition by b order by c), w2 as (w)
select mode() within group (order by a desc), rank(1) within group (order by a) from t
select * from t where (a, b) = (select c, d from u) and row(a) is not distinct from row(b)
select * from t where a not between 1 and 2 and b not like 'x' and c not ilike 'y' escape '\' and d not similar to 'z' and not e
select * from t where a like any (array['x','y']) or a = some (select b from u) or a <> all (values (1),(2))
select * from t where a is unknown or b is not true or c is false
select cast(a as double precision), a::character varying(3), a::national character varying, a::bit varying(3), a::time with time zone, a::interval year from t
select cast(a as timestamp without time zone), a::pg_catalog.int4[], a::float(3), a::dec(3), a::"My Type", a::s."T"[] from t
select array[[1,2],[3,4]], array[]::int[], '{1,2}'::int[], array(select a from t order by 1) || b, a[2:3][1:2], a[:2], (select array_agg(x) from u x)[1] from t
select (row(1,2)).f1, (t).a, (t.c).d.e, (select x from u x limit 1).a, (f(a)).*, (a.b).* from t
select t.*, public.t.a, a.b.c from public.t
select "select" from "from" where "where" = 1
select a as value, b as name, c as type, d as date, e as time, f as user_id, level, year, month, day, hour, key, action, status, data, text, comment, position, role from t
select value, name, type, date, time, timestamp, text, json, xml, point, box, interval, language, current, next, prior, row, rows, range, session, system, temp, uuid, version, zone, views, names, no, of, off, oids, option, over, owner, partition, plans, policy, schema, search, sequence, sets, share, show, skip, source, start, statistics, storage, strict, tables, trigger, types, valid, values, view, work from t
select * from value, name, type, data, key, "user", role, action, comment, policy, session, source, language, index, schema, view, sequence, partition, trigger, domain, version, document, events, groups, range, rows, over, filter, percent, temp, cache, cluster, statistics, storage, matched, nothing, location, status, text
select * from date, time_, point, json, xml, uuid, money, name, oid, int_, box, line, inet, list, map, struct, object, array_, nested, range, set_, enum, variant, image, year, hll, super, image, rowversion, unknown, nullable, dynamic, void
select * from format, replace, describe, show, cache, pragma, explain, kill, load, use, escape, final, qualify_, asof_, anti, semi, apply, pivot, unpivot, settings, sample, straight_join_, overwrite, "lateral", prewhere, limit_, percent, connect, prior
select * from t describe, u show, v cache, w pragma, x set_, y index, z view, a1 final, b1 percent, c1 overwrite, d1 format
select * from t as final, u as semi, v as anti, w as asof, x as apply, y as pivot, z as qualify
select * from t semi, u anti, v asof, w apply
select * from t pivot, u unpivot
select * from t qualify
select * from orders final where a
select * from t sample where a
select * from t settings
select a from t uncache, u kill, v load
delete from only t using (select 1) x where true
delete from t as x using u join v using (a), lateral f(x.b) where x.a = u.a returning old.*, new.a
insert into t (a) values (1), (default) on conflict do nothing
insert into t (a) values (1) on conflict on constraint c do update set (a, b) = row(excluded.a, default), c = (select x from u) where t.a > excluded.b returning t.*, xmax = 0 as inserted
insert into t overriding user value select * from u
insert into t (a) overriding system value values (1)
insert into s."T" as x select x from u as x where exists (select from v)
insert into t values (1), (2) returning with (old as o, new as n) o.a, n.b
insert into t (a) (values (1))
insert into t (a) ((select 1) union all (select 2))
insert into t with x as (insert into u default values returning a) select a from x
with recursive x as (select 1 union select 2 from x), y as (table x), z as not materialized (select * from v) update t set a = y.a from y where t.b in (select b from z) returning *
with x as (select 1) delete from t using x where t.a = x.a
with x as (select 1) merge into t using x on true when matched and t.a > 1 then update set a = 1, (b, c) = (1, default) when matched then do nothing when not matched by target then insert (a) overriding user value values (1) when not matched by source and b then delete returning merge_action(), old.a
merge into s.t as a using u as b on a.x = b.x when matched then delete when not matched then insert default values
merge into t using (select * from u join v using (a)) x on x.a = t.a when not matched then insert (a,b) values (x.a, (select max(b) from w))
update t set (a, b) = (select c, d from u where u.x = t.x), e = e + 1, f.g = 1, h[2] = 3, i = default where j in (select k from l)
update t as x set a = 1 from (u join v on u.a = v.a) join w using (b), lateral (select 1) y where x.a = u.a
update t * set a = 1
update s.t set a = (with q as (select * from u) select max(b) from q)
with t as (select 1) update t set a = 2
with t as (select 1) delete from t
with t as (select 1) insert into t select * from t
with x as (select * from y), y as (select 1) select * from x, y
with recursive x as (select * from y), y as (select 1) select * from x, y
with x as (with y as (select * from z) select * from y) select * from x, y
with x as (select 1) (select * from x union select * from x) union all select * from x
(with x as (select 1) select * from x) union select * from x
with x as (select 1) select * from (with x as (select 2 from x) select * from x) q, x
with "X" as (select 1) select * from x, "X"
with X as (select 1) select * from x, "X"
with x as (select 1) select * from public.x
with x(a, b) as (values (1,2)) select * from x, lateral (select * from x) y
select * from (with x as (select 1) select * from x) a, x
select * from t where a in (with x as (select 1) table x)
with x as (select 1) select (select count(*) from x), exists (select from x where a in (select b from x)) from t
with x as (select 1) table x union all table y
select * from t left join (u cross join v) on true right join w on true full join z using (a) natural left join q
select * from t join u join v on true on true
select * from t join u using (a, b) as j
select * from (t join u on true) x
select * from ((select 1 from t)) x
select * from ((select 1 from t) union (select 2 from u)) x
select * from (((t join u on true)))
select * from (values (1,2),(3,4)) v(a,b), rows from (f(1), g(2) as (a int)) with ordinality x
select * from generate_series('2020-01-01'::date, now(), interval '1 day') with ordinality as g(d, n)
select * from unnest(array[1], array['a']) u(a,b), jsonb_to_recordset('[]') as r(a int, b text[]), jsonb_array_elements(t.j) e, t tablesample system (10)
select * from string_to_table('a,b', ',') with ordinality
select * from only (s.t) as x
select * from current_user, current_timestamp(3)
select current_timestamp(3), localtime(0), current_schema, current_catalog, current_role, current_schema() from t
select extract(year from a), extract('week' from b), extract(timezone_hour from c), overlay(a placing 'b' from 1 for 2), substring(a from 'x' for '#'), substring(a for 2), position('x' in a), trim(leading from a), trim(trailing 'x' from a), trim('x' from a), trim(a), trim(from a), trim(a, 'x'), collation for (a), normalize(a, nfc), treat(a as int) from t
select date '2020-01-01' + interval '1' year, timestamp '2020-01-01 00:00', interval '1-2' year to month, interval(3) '1', interval '1 day' * 2, time '10:00', bool 'true', int4 '1', numeric(10,2) '1', pg_catalog.int4 '1', float8 'nan', point '(1,2)', json '{}', varchar(3) 'abc', char(2) 'ab' from t
select a at time zone 'utc' at time zone b, a at local, a collate "de_DE" < b collate pg_catalog."C", (a || b) collate "x" from t
select a->'b'->>'c', a#>'{x}'#>>'{y}', a ? 'b', a ?& array['c'], a - 'b', a #- '{c}', a || b, a @@ '$.x', a <@ b, a && b, a -|- b, a << b, a >> b, a &< b, a |>> b, a ~= b, a <-> b, a <#> b, a <=> b, a % b, a <% b, a %>> b, a ^ b, a # b, a & b, a | b, ~a, a << 2, |/ a, ||/ b, @ a, !! a, a !~* b, a ~* b, a ~~* b, a !~~ b, a @-@ b, a ^@ b, a ~<~ b, a *< b, a ?- b, a ?| b, a ?-| b, ?- a from t
select - a, + a, - -1, not not a, a - - b, a=-1, a<-1, a>-1, a*-1, a||-1 from t
select a operator(s.@@@) b, operator(pg_catalog.-) a, a operator(=) any (array[1]), a operator(pg_catalog.~~) 'x' from t order by a using operator(pg_catalog.<)
select * from t order by a using >, b using < nulls first, c collate "C" desc
select U&"a\0062" from U&"d\0061t" where x = U&'d!0061' uescape '!' and y = u&'z'
select * from u&"!0041bc" uescape '!', U&"\+01F600", U&"\D83D\DE00"
select E'a\'b\\', e'\x41\u0041', 'a''b', 'a\', $$a'b$$, $x$a$$b$x$, b'101', x'1F', n'abc', '' from t
select 1.5e10, .5, 5., 1_000, 0x1F, 0b1, 0o7, 1e-5 from t
select 1 from t -- comment
select /* c */ 1 /* d /* e */ f */ from t /*+ hint */ -- x
select a from t where a = 1;
select $1, $2::text, ($3)[1] from t where a = $4 and b = any($5) limit $6 offset $7
select case a when 1 then 2 when 3 then 4 end, case when a then b else c end case_ from t
select coalesce(a,b), nullif(a,b), greatest(a,b), least(a,b), row(a), (a,b), (a,b)=(c,d), row() from t
select f(a => 1, b := 2), f(variadic array[1]), f(1, variadic a), f(distinct a), f(all a), f(*), f(a order by b desc), s.f(1), "F"(1), s."F"() from t
select distinct on (a, b) a, b from t order by a, b
select all * from t group by distinct a, grouping sets ((a, b), rollup (c, d), cube (e), ()) having grouping(a) = 0
select a from t group by ()
select 1 where true
select 1 having true
select
select from t where exists (select)
select * from t where current_date > date_trunc('month', a)
select * into temp x from t
select * into table x from t
select * into unlogged x from t
select array[x::numeric(10,2), array[1,2]], date(cast(x as varchar(10))), date(a::timestamp(3) with time zone), array[array[1,2],array[3,4]], text(date(x)), array[date '2020-01-01', timestamp(3) '2020-01-01'], array[interval(3) '1', (select 1 from u)], array(select date(x) from v), array[varchar(3) 'a'] from t
with x as (select 1) values ((select count(*) from x))
with x as (select a from t), y as not materialized (select a from u) values (1, 'a'), (2, (select max(a) from v)) order by 1 limit 1
with x as materialized (select a from t) insert into u (a) values (1), (2)
select a from t as x tablesample bernoulli (100) repeatable (3) join u tablesample system (50) on t.j ? 'b'
with x as (select a from t where j @? '$.a') values (1)
select 1 from (lateral (select a from t) as d (x) right join u on d.x = u.x), lateral (select b from v where v.x = u.x) w, lateral f(u.x)
select 1 from (values (true) except all (select a from t)) as x (y), u where u.j ? 'b' and u.k in (values (1), ((select b from v)))
