"""Sends a hundred good runs and a bad one in one request, with the real LangSmith SDK.

Takes "multipart" or "batch"; prints the ids of the good runs.
"""

import json
import sys
import uuid
from datetime import datetime, timezone

from langsmith import Client

client = Client(auto_batch_tracing=False)
began = datetime.now(timezone.utc)


def run(name):
    id = str(uuid.uuid4())
    return {
        "id": id,
        "trace_id": id,
        "dotted_order": f"{began:%Y%m%dT%H%M%S%fZ}{id}",
        "name": name,
        "run_type": "chain",
        "start_time": began.isoformat(),
        "inputs": {"name": name},
        "outputs": {"ok": True},
        "session_name": "bad",
    }


runs = [run(f"good {i}") for i in range(100)]
ids = [run["id"] for run in runs]
# The SDK checks ids that are text, and passes on any other.
bad = {**run("bad"), "id": 7}
send = {"multipart": client.multipart_ingest, "batch": client.batch_ingest_runs}[sys.argv[1]]
send(create=[*runs[:50], bad, *runs[50:]])
json.dump(ids, sys.stdout)
