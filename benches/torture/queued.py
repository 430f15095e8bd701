"""What is different when orders are queued: the workload, what is killed and locked, and what must hold afterwards."""

import collections
import contextlib
import json
import sqlite3
import subprocess
import threading
import time

from environment import ENVIRONMENT, wait_until

# The gateway more often than all others together, and any instance: the shop's, payments', shipping's.
TARGETS = ["gateway", "gateway", "gateway", "instance", "instance", "agent", "shim"]
# How many are killed in a round, and how often and how long the database is locked, in milliseconds.
KILLS = (2, 5)
LOCKS = (1, 2)
LOCK_MS = (500, 4000)

# How long a backlog may take to drain once nothing is killed or locked any more, in seconds.
DRAIN = 120

NEEDS = 'needs = ["payments", "shipping"]\n'

SERVICE = """
[component.@NAME@]
external = "http://@NAME@.example"
as       = "@NAME@_URL"

[component.@NAME@.sandbox]
run      = ["@PROGRAM@", "demo-shop", "@NAME@", "--port", "{port}", "--data", "{data}"]
artifact = "v1"
ready    = { get = "/readyz" }
"""

# What failed often is tried again soon: a round waits for all of it.
GATEWAY = '\n[gateway]\ndefault = "shop"\nqueue   = { longest_pause = "2s" }\n'

ROUTE = """
[route."POST /api/orders"]
queue           = { wait = "2s", order_by = "$.customer", idempotent = true }
idempotency_key = "required"
"""

SAGA = """saga            = "checkout"

[saga.checkout]
answer = "record"

[[saga.checkout.step]]
name = "charge"
post = "payments:/charges"
json = { customer = "{body:$.customer}", ref = "{body:$.ref}", items = "{body:$.items}" }
undo = { post = "payments:/charges/{charge:$.id}/refund" }

[[saga.checkout.step]]
name = "record"
post = "shop:/api/orders"
undo = { delete = "shop:/api/orders/{record:$.id}" }

[[saga.checkout.step]]
name = "ship"
post = "shipping:/labels"
json = { order = "{record:$.id}", ref = "{body:$.ref}" }
undo = { delete = "shipping:/labels/{ship:$.id}" }
"""


def tables(seed):
    """Tables of the workload file: every second round a checkout is a saga over three services."""
    services = "".join(SERVICE.replace("@NAME@", name) for name in ("payments", "shipping"))
    return services + GATEWAY + ROUTE + (SAGA if seed % 2 else "")


def plan(dice, kind, span):
    """What is killed when, and when the database is locked for how long."""
    kills = [dice.choice(TARGETS) for _ in range(dice.randint(*KILLS))]
    if kind == "crash":
        # Beside a release that crashes by itself no instance is killed: both of a stamp would be away at once.
        kills = ["gateway" if target == "instance" else target for target in kills]
    while kills.count("instance") > 1:
        kills[kills.index("instance")] = "gateway"
    moments = sorted(dice.uniform(0, span) for _ in kills)
    locks = [(dice.uniform(0, span), dice.randint(*LOCK_MS)) for _ in range(dice.randint(*LOCKS))]
    return list(zip(moments, kills)), sorted(locks)


class Locks:
    """Another process that locks the shop's database now and then, each time for a limited time."""

    def __init__(self, environment, locks):
        self.held = 0
        self.thread = threading.Thread(target=self._work, args=(environment, locks, time.monotonic()))
        self.thread.start()

    def _work(self, environment, locks, began):
        command = [environment.program, "demo-shop", "lock", "--data", str(environment.state / "data")]
        for moment, milliseconds in locks:
            time.sleep(max(0, began + moment - time.monotonic()))
            # It may find the database busy for too long; then this lock is left out.
            done = subprocess.run([*command, "--for", f"{milliseconds}ms"], capture_output=True, check=False)
            self.held += done.returncode == 0

    def end(self):
        """Waits for the last one, and gives how many there were."""
        self.thread.join()
        return self.held


def status(environment):
    """`mainstay queue status`; none while no gateway answers."""
    code, said = environment.run("queue", "status", ENVIRONMENT)
    return said if code == 0 else None


def drained(environment):
    """Waits until no job is left that will be delivered by itself, and gives the status then."""

    def holds():
        found = status(environment)
        return found if found and found["open"] and found["depth"] == found["states"].get("unknown", 0) else None

    return wait_until("the backlog is drained", holds, DRAIN)


def is_smoke(environment, job):
    """Whether a job was asked for at the preview door. When its candidate is gone nobody else is to have it."""
    shown = environment.mainstay("queue", "show", ENVIRONMENT, str(job["id"]))
    return "mainstay-stamp" in dict(shown["fields"])


def unsettled(environment, seen):
    """Jobs of users that were acknowledged and not delivered. There must be none: the shop keeps to its keys."""
    counts = collections.Counter()
    for state in ("unknown", "dead", "rejected"):
        listed = environment.mainstay("queue", "list", ENVIRONMENT, "--only", state, "-n", "500")["jobs"]
        if state == "rejected":
            listed = [job for job in listed if not is_smoke(environment, job)]
        counts[state] = len(listed)
        seen.holds(f"{len(listed)} jobs are {state}: {json.dumps(listed[:3])}", not listed)
    return counts


def references(environment, file, query):
    """How often each reference is found in a database of the services."""
    path = environment.state / "data" / file
    if not path.exists():
        return collections.Counter()
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
        return collections.Counter(dict(database.execute(query)))


RECORDS = "SELECT json_extract(body, '$.ref'), count(*) FROM records WHERE undone = 0 GROUP BY 1"
ORDERS = "SELECT ref, count(*) FROM orders WHERE cancelled IS NULL GROUP BY 1"


def sagas(environment, seen):
    """Whatever was charged is ordered and shipped, once each, and whatever is shipped was charged. Gives how many."""
    charges = references(environment, "payments.db", RECORDS)
    labels = references(environment, "shipping.db", RECORDS)
    orders = references(environment, "shop.db", ORDERS)
    # Smoke on a candidate orders too, and a release that is taken back may leave nothing of it behind.
    wrong = [ref for ref in charges.keys() | labels.keys() if (charges[ref], labels[ref], orders[ref]) != (1, 1, 1)]
    shown = [(ref, charges[ref], orders[ref], labels[ref]) for ref in wrong[:3]]
    seen.holds(f"{len(wrong)} sagas are neither complete nor undone (ref, charges, orders, labels): {shown}", not wrong)
    return len(charges)
