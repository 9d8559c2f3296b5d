"""Traces runs with the real LangSmith SDK while its key is over its rate, until one of them was told to come again.

Prints the ids of the runs, and how often the SDK was refused.
"""

import json
import logging
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from datetime import datetime, timezone

from langsmith import Client

ATTEMPTS_MAX = 10
refused = 0


class Watch(logging.Handler):
    """Counts the SDK's requests that were answered with 429."""

    def emit(self, record):
        global refused
        refused += '/runs/multipart HTTP/1.1" 429' in record.getMessage()


logging.getLogger("urllib3.connectionpool").addHandler(Watch())
logging.getLogger("urllib3.connectionpool").setLevel(logging.DEBUG)


def use_up_the_rate():
    """Takes the one request that the key has, whenever it has it."""
    headers = {"x-api-key": os.environ["LANGSMITH_API_KEY"], "content-type": "application/json"}
    while True:
        request = urllib.request.Request(os.environ["LANGSMITH_ENDPOINT"] + "/runs/batch", b"{}", headers)
        try:
            urllib.request.urlopen(request).close()
            return
        except urllib.error.HTTPError as error:
            if error.code != 429:
                raise
            time.sleep(0.02)


client = Client()
# Asked for once, before the first run is sent.
assert client.info.batch_ingest_config
ids = []
while not refused and len(ids) < ATTEMPTS_MAX:
    id, now = uuid.uuid4(), datetime.now(timezone.utc)
    place = {"trace_id": id, "dotted_order": f"{now:%Y%m%dT%H%M%S%fZ}{id}"}
    use_up_the_rate()
    client.create_run("patient", {"q": 1}, "chain", id=id, start_time=now, **place)
    client.update_run(id, outputs={"a": 2}, end_time=datetime.now(timezone.utc), **place)
    client.flush()
    ids.append(str(id))

json.dump({"ids": ids, "refused": refused}, sys.stdout)
