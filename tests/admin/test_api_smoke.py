import asyncio, json
from support.api import in_office
def test_smoke(nats_server):
    async def t(o):
        await o.configure(cross_tenant_analytics=True, events={"embedded":True})
        for m,p,b in [("POST","/tenants",{"id":"tenant_e","name":"Echo Inc","isolation":"schema","database":"shared_db","schema":"tenant_e","max_connections":20,"qps_limit":300}),
            ("GET","/tenants/x",None),("GET","/tenants/tenant_e",None),
            ("PUT","/tenants/tenant_e/users/bob",{"password":"x"}),("GET","/tenants/tenant_e/users",None),
            ("POST","/tenants/tenant_e/users",{"name":"bob","password":"x"}),("POST","/tenants/tenant_e/users",{"name":"bob2","passwor":"x"}),
            ("PUT","/tenants/tenant_e",{"name":"E","qps_limit":3,"isolation":{"schema_name":"tenant_e"}}),
            ("PATCH","/tenants/tenant_e",{"rate_limits":{"qps_limi":3,"burst_multiplier":0.1},"foo":2,"permissions":{"allowed_operations":["X"]}}),
            ("PUT","/tiers/gold",{"rate_limits":{"requests_per_second":10,"burst":30}}),("GET","/tiers",None),("PATCH","/tiers/gold",{"qps_limit":11}),
            ("PATCH","/tenants/tenant_e",{"tier":"gold"}),("DELETE","/tiers/gold",None),
            ("GET","/tenants/stats",None),("GET","/tenants/tenant_e/stats",None),("GET","/tenants/tenant_e/metrics",None),("GET","/metrics",None),
            ("GET","/analytics/cross-tenant",None),("GET","/analytics/top?by=x",None),("GET","/analytics/history?step=hour",None),("GET","/analytics/costs",None),("GET","/analytics/limits",None),("GET","/analytics/noisy-neighbours",None),
            ("PUT","/operators/eve",{"role":"viewer"}),("GET","/operators",None),("POST","/tokens",{"name":"eve","role":"viewer","ttl":"1h"}),("GET","/tokens",None),("POST","/tokens",{"role":"x","ttl":"forever","z":1}),("POST","/tokens",{"role":"x","ttl":"forever"}),
            ("GET","/defaults",None),("PATCH","/defaults",{"qps_limit":50}),("GET","/events?limit=3",None),("GET","/events?limit=2&order=asc&tenant=tenant_e",None),("GET","/events/2",None),("POST","/tenants/tenant_e/undo",{"sequence":3}),
            ("GET","/tenants/tenant_e?at=1%20second%20ago",None),("GET","/tenants/tenant_e/diff?from=2026-01-01",None),
            ("GET","/audit",None),("GET","/audit/verify",None),("GET","/config",None),("GET","/version",None),("GET","/healthz",None),("GET","/readyz",None),
            ("POST","/tenants/tenant_e/disable",None),("POST","/tenants/tenant_e/enable?dry_run=true",None),("DELETE","/tenants/tenant_e",None),("POST","/tenants/tenant_e/purge",None),("POST","/tenants/tenant_e/restore",None),("PUT","/tenants/new",{"name":"x"}),("GET","/nope",None),("POST","/healthz",None)]:
            r=await o.ask(m,p,b)
            print(m,p,r.status_code, r.headers.get("etag",""),r.headers.get("link",""),r.headers.get("allow","")); print("    ",r.text[:700])
    in_office(nats_server,t)
