#!/usr/bin/env bash
# One run with one span, in our own JSON. Needs TRACEBILITY_INGEST_URL and TRACEBILITY_API_KEY.
set -euo pipefail
uuid() { cat /proc/sys/kernel/random/uuid; }
now=$(date --utc +%Y-%m-%dT%H:%M:%SZ)
curl --fail-with-body --silent --show-error "$TRACEBILITY_INGEST_URL/v1/runs" \
    --header "x-api-key: $TRACEBILITY_API_KEY" --header 'content-type: application/json' --data @- <<JSON
{"runs": [{"run_id": "$(uuid)", "name": "answer a question", "kind": "chain", "start_time": "$now", "end_time": "$now",
  "spans": [{"span_id": "$(uuid)", "name": "ask the model", "kind": "llm", "start_time": "$now", "end_time": "$now",
             "model": "gpt-4o-mini", "provider": "openai", "prompt_tokens": 12, "completion_tokens": 5}]}]}
JSON
echo
