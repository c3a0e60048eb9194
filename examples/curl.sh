#!/bin/sh
# The HTTP API with curl. Run it from the folder that `make run` was started in.
# MILLRACE_HTTP (host:port) and MILLRACE_API_KEY say where and who; the names are the server's own.
set -eu
MILLRACE_HTTP=${MILLRACE_HTTP:-127.0.0.1:8000}
MILLRACE_API_KEY=${MILLRACE_API_KEY:-$(cat millrace-data/run/api_key)}

# A whole answer.
curl -sS "http://$MILLRACE_HTTP/v1/chat/completions" \
  -H "Authorization: Bearer $MILLRACE_API_KEY" -H 'Content-Type: application/json' \
  -d '{"model": "sim/hello", "messages": [{"role": "user", "content": "Hello"}]}'
echo

# A streamed one: -N shows each piece when it comes.
curl -sSN "http://$MILLRACE_HTTP/v1/chat/completions" \
  -H "Authorization: Bearer $MILLRACE_API_KEY" -H 'Content-Type: application/json' \
  -d '{"model": "sim/echo", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'

# At most 5 seconds for this one. What a failure looks like: the status line, then the body.
curl -sSi "http://$MILLRACE_HTTP/v1/chat/completions" \
  -H "Authorization: Bearer $MILLRACE_API_KEY" -H 'Content-Type: application/json' \
  -H 'X-Millrace-Timeout: 5' \
  -d '{"model": "sim/hello", "messages": [{"role": "user", "content": "Hello"}], "n": 0}'
echo

# The models that workers list; other names of a provider that is on work as well.
curl -sS "http://$MILLRACE_HTTP/v1/models" -H "Authorization: Bearer $MILLRACE_API_KEY"
echo

# For load balancers and monitoring, without a key.
curl -sS "http://$MILLRACE_HTTP/readyz"
echo
curl -sS "http://$MILLRACE_HTTP/metrics" | grep -E '^millrace_(in_flight|queue_depth|running|requests_total)'
