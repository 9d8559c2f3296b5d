"""Changes two runs after they have ended: one when all of it has been sent, one while its end is still queued. Prints their ids."""

import json
import uuid
from datetime import datetime, timedelta, timezone

from langsmith import Client

client = Client()


def run(name):
    id = uuid.uuid4()
    start = datetime.now(timezone.utc)
    placed = {"trace_id": id, "dotted_order": start.strftime("%Y%m%dT%H%M%S%fZ") + str(id)}
    client.create_run(
        name, {"q": 1}, "chain", id=id, project_name="updates", start_time=start, tags=["first"],
        extra={"metadata": {"stage": "one", "kept": "yes"}}, **placed,
    )
    client.update_run(id, outputs={"card": "4111 1111"}, end_time=start + timedelta(seconds=60), **placed)
    return id, placed


def change(id, placed):
    # The clock of who changes it is behind that of who ran it.
    client.update_run(
        id, outputs={"card": "[redacted]"}, tags=["first", "reviewed"], end_time=datetime.now(timezone.utc),
        extra={"metadata": {"stage": "two"}}, **placed,
    )


sent, placed = run("sent")
client.flush()
change(sent, placed)
client.flush()

queued, placed = run("queued")
change(queued, placed)
client.flush()

print(json.dumps({"sent": str(sent), "queued": str(queued)}))
