"""The HTTP admin API: the same commands and the same answers as every other surface.

server.py     listens, with TLS if told to; bounds connections and slow clients
gate.py       what no route needs to think of: Host, headers, rates, sizes of headers
access.py     who asks, and what they may
bodies.py     JSON in
problems.py   mistakes out (RFC 9457)
shapes.py     both documents' short forms of settings
commands.py   a request becomes a command, its answer a response
backend.py    what routes need of the control process
pages.py      lists, and the way to the next page
described.py  the words and schemas of the OpenAPI document
examples.py   its examples
docs_page.py  it as a page for people
routes_*.py   the endpoints
"""
