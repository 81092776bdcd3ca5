"""The configuration of each proxy that is compared, with the settings that suit it best here.

All: no access log, no health checks, timeouts that no run reaches, one relaying process or thread.
"""

from __future__ import annotations

# reuseport: no accept mutex. 64 KiB: four times the default, and the better one in bulk.
NGINX_CONFIG = """\
load_module {module};
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 16384; }}
stream {{
    server {{
        listen 127.0.0.1:{listen} reuseport backlog=4096;
        proxy_pass 127.0.0.1:{backend};
        proxy_buffer_size 64k;
        proxy_timeout 1h;
        tcp_nodelay on;
    }}
}}
"""

# splice-auto lets HAProxy choose as it does by default in its own recommendations; without it, it
# copies through tune.bufsize. Both are measured. maxconn: its pools grow with it.
HAPROXY_CONFIG = """\
global
    nbthread 1
    maxconn 4096
    no strict-limits
defaults
    mode tcp
{splice}    timeout connect 10s
    timeout client 1h
    timeout server 1h
frontend bench
    bind 127.0.0.1:{listen} backlog 4096
    default_backend one
backend one
    server one 127.0.0.1:{backend}
"""

# The circuit breaker of a cluster is 1,024 connections if nothing is said. Buffers stay at their
# default of 1 MiB a connection, with which bulk is fastest.
ENVOY_CONFIG = """\
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {listen}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: bench
          cluster: one
  clusters:
  - name: one
    type: STATIC
    connect_timeout: 10s
    circuit_breakers:
      thresholds: [{{max_connections: 100000, max_pending_requests: 100000}}]
    load_assignment:
      cluster_name: one
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {backend}}}}}}}
"""

TRAEFIK_CONFIG = """\
entryPoints: {{bench: {{address: "127.0.0.1:{listen}"}}}}
providers: {{file: {{filename: {directory}/dynamic.yaml}}}}
global: {{checkNewVersion: false, sendAnonymousUsage: false}}
log: {{level: ERROR}}
"""

TRAEFIK_ROUTES = """\
tcp:
  routers: {{r: {{entryPoints: [bench], rule: "HostSNI(`*`)", service: s}}}}
  services: {{s: {{loadBalancer: {{servers: [{{address: "127.0.0.1:{backend}"}}]}}}}}}
"""
