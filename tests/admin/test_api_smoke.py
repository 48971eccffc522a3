import asyncio, json
from support.api import in_office
def test_smoke(nats_server):
    async def t(o):
        for m,p,b in [("GET","/tenants",None),("POST","/tenants",{"id":"tenant_e","name":"Echo Inc","isolation":"schema","database":"shared_db","schema":"tenant_e","max_connections":20,"qps_limit":300}),
            ("POST","/tenants",{"id":"new-tenant","name":"New Tenant","rate_limits":{"requests_per_second":500},"upstream":"shared-backend"}),
            ("GET","/tenants",None),("PATCH","/tenants/new-tenant",{"rate_limits":{"requests_per_second":1000}}),("PUT","/tenants/tenant_e/limits",{"max_connections":100,"qps_limit":2000}),
            ("GET","/tenants/x",None),("GET","/tenants?foo=1&token=x",None),("GET","/tenants?foo=1&limit=0",None),("DELETE","/tenants/new-tenant",None),("GET","/tenants/new-tenant/limits",None),("GET","/nope",None),("TRACE","/tenants",None),("GET","/tenants/../x",None)]:
            r=await o.ask(m,p,b)
            print(m,p,r.status_code,dict(r.headers)); print(r.text[:1500])
        print(len((await o.ask("GET","/openapi.json")).text))
        print(o.notes.taken[-3:])
        r=await o.as_token("").get("/tenants"); print(r.status_code,r.text, r.headers)
    in_office(nats_server,t)
