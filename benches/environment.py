"""An environment in a temporary folder that the benchmarks act on by the command line, and what they read of it.

Nothing outside the folder is written, and only processes that name the folder are ever ended, by their number.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
ENVIRONMENT = "bench"

# Above the ports that the kernel gives to outgoing connections, of which a load test takes many.
PORTS = range(61_000, 65_000)

# How long a command may take before the benchmark gives up on it, in seconds.
PATIENCE = 300

# Clock ticks in a second, the unit of /proc/PID/stat.
TICKS = os.sysconf("SC_CLK_TCK")

# The shop with two instances. @MORE@ are keys of `[component.shop]`, and other tables after them.
WORKLOAD = """
[workload]
name = "shop"

[environment.bench]
class  = "staging"
listen = { http = "127.0.0.1:@PORT@" }

[release]
@RELEASE@

[component.shop]
run           = ["@PROGRAM@", "demo-shop", "serve", "--port", "{port}", "--data", "{data}"]
artifact      = "v1"
instances     = 2
ready         = { get = "/readyz", timeout = "10s" }
drain_timeout = "5s"
@MORE@
"""

# Nine of ten users look at two pages, one looks and orders. Every order is looked up in the end.
BROWSE_AND_ORDER = """
[flow.browse]
weight = 9
[[flow.browse.step]]
get  = "/api/products?page=1"
save = { sku = "$.items[0].sku" }
[[flow.browse.step]]
get  = "/api/products/{sku}"

[flow.order]
ledger = { ref = "{uuid}", confirm = { get = "/api/orders?ref={ref}", count = "$.items" } }
[[flow.order.step]]
get  = "/api/products?page=@PAGE@"
save = { sku = "$.items[@ITEM@].sku" }
[[flow.order.step]]
post   = "/api/orders"
json   = { customer = "{user.id}", ref = "{uuid}", items = [{ sku = "{sku}", quantity = 1 }] }
expect = { status = 201 }
"""

RELEASES = ["v1", "v2", "v3-identical", "v3-broken", "v3-crash", "v3-errors", "v3-slow"]


def say(text):
    print(text, file=sys.stderr, flush=True)


def options(name, about):
    """The options that all of these benchmarks have."""
    # Whoever is told to stop takes down what it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog=f"./bench {name}", description=about)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--program", help="a build of mainstay; without it one is made with `--profile release`")
    return parser


def build(flags):
    """The program that is measured."""
    if flags.program:
        return str(pathlib.Path(flags.program).resolve())
    subprocess.run(["cargo", "build", "--release", "--locked", "-p", "mainstay"], cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target"))
    return str(pathlib.Path(ROOT, target, "release", "mainstay").resolve())


def free_port():
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise SystemExit(f"error: none of the ports from {PORTS.start} to {PORTS.stop} is free")


def wait_until(what, holds, seconds=60, pause=0.05):
    """Waits for a condition and gives what it gave; raises when it does not come in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(pause)


class Control(http.client.HTTPConnection):
    """The gateway's own socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=5)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def state(self):
        """`GET /v1/state`; none while no gateway answers."""
        # The connection that was kept may lead to a gateway that was killed since.
        for _ in range(2):
            try:
                self.request("GET", "/v1/state")
                return json.loads(self.getresponse().read())
            except (OSError, http.client.HTTPException, ValueError):
                self.close()
        return None


class Load:
    """The product's own load engine, in a process of its own, until it is stopped."""

    def __init__(self, environment, rate, seconds, seed=None):
        more = [] if seed is None else ["--seed", str(seed)]
        self.process = environment.start("load", ENVIRONMENT, "--rate", f"{rate}/s", "--for", f"{seconds:.0f}s", *more)
        environment.loads.append(self)

    def stop(self):
        """Ends it, waits until every write is looked up, and gives its report."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        out, error = self.process.communicate(timeout=PATIENCE)
        if not out.strip():
            raise SystemExit(f"error: the load gave no report: {error}")
        return json.loads(out.splitlines()[-1])


class Environment:
    """An environment in a temporary folder, acted on by the command line."""

    def __init__(self, program, release, more=""):
        self.program = program
        self.port = free_port()
        self.loads = []
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mainstay-bench-"))
        self.state = self.folder / "state"
        self.describe(release, more)
        for name in RELEASES:
            (self.folder / name).mkdir()
            (self.folder / name / "release").write_text(name)

    def describe(self, release, more):
        """Writes the workload file."""
        text = WORKLOAD.replace("@RELEASE@", release).replace("@MORE@", more)
        text = text.replace("@PROGRAM@", self.program).replace("@PORT@", str(self.port))
        (self.folder / "mainstay.toml").write_text(text)

    def command(self, *arguments):
        return [self.program, "--json", "--state", str(self.state), *arguments]

    def start(self, *arguments):
        return subprocess.Popen(
            self.command(*arguments), cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *arguments):
        """Runs mainstay; gives its exit code and the last line as JSON, or what it said instead."""
        done = subprocess.run(
            self.command(*arguments), cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE
        )
        return done.returncode, answer(done.stdout) or {"said": (done.stdout + done.stderr).strip()}

    def mainstay(self, *arguments):
        """Runs mainstay, which has to end with 0."""
        code, said = self.run(*arguments)
        if code != 0:
            raise SystemExit(f"error: mainstay {' '.join(arguments)} ended with {code}: {json.dumps(said)}")
        return said

    def status(self):
        """`mainstay status`; none while no agent answers."""
        code, said = self.run("status", ENVIRONMENT)
        return said if code == 0 else None

    def settled(self, seconds=60):
        """Waits until nothing is under way, and gives the status then."""

        def holds():
            status = self.status()
            return status if status and is_settled(status) else None

        return wait_until("one active stamp, ready, and no other but one that is kept", holds, seconds)

    def control(self):
        return Control(self.state / "run" / "gateway.sock")

    def processes(self):
        """The processes of this environment: (number, parent, role, instance)."""
        return list(processes(str(self.state)))

    def strike(self, keep=False):
        """Takes everything down and removes the folder unless told to keep it; what does not go is ended by number."""
        for load in self.loads:
            if load.process.poll() is None:
                load.process.kill()
                load.process.communicate()
        for _ in range(5):
            if self.run("down", ENVIRONMENT)[0] == 0:
                break
            self.run("rollback", ENVIRONMENT)
        for pid, *_ in self.processes():
            end(pid)
        if keep:
            return
        # Stored artifacts are read-only, also to the one who removes them.
        for folder, _, _ in os.walk(self.folder):
            os.chmod(folder, 0o700)
        shutil.rmtree(self.folder)


def answer(text):
    """The last line as JSON; none when it is none."""
    try:
        return json.loads(text.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return None


def is_settled(status):
    """Whether one stamp serves, known to agent and gateway, ready, and no other runs but one that is kept."""
    stamps, gateway = status["stamps"], status["gateway"] or {}
    return (
        [stamp["role"] for stamp in stamps].count("active") == 1
        and all(stamp["role"] in ("active", "previous") for stamp in stamps)
        and status["active_ready"]
        and gateway.get("active") == status["active"]
        and gateway.get("candidate") is None
        and (not status["releases"] or status["releases"][0]["ended"] or status["releases"][0]["state"] == "promoted")
    )


def processes(state):
    """Who names the state folder: the environment's own, its shims and what they run, its hooks."""
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
        except OSError:
            continue
        if not any(word.startswith(state + "/") or word == state for word in words):
            continue
        role, instance = "instance", None
        if words[0] == "mainstay" and words[1] in ("keeper", "agent", "gateway", "shim"):
            role = words[1]
            instance = pathlib.Path(words[2]).name if role == "shim" else None
        elif "--json" in words:
            role = "command"
        yield int(entry.name), parent, role, instance


def end(pid):
    """SIGKILL; whether there was anybody."""
    try:
        os.kill(pid, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False


def cpu_seconds(pid):
    """Processor time that a process has used so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def pss_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


def summary(values):
    """Median and maximum, and all values."""
    known = [value for value in values if value is not None]
    if not known:
        return {"median": None, "max": None, "all": []}
    return {"median": round(statistics.median(known), 3), "max": round(max(known), 3), "all": known}


def over(name, found, median, maximum, unit):
    """Which of two limits a summary breaks, in words."""
    if found["median"] is None:
        yield f"{name}: nothing was measured"
        return
    if median is not None and found["median"] > median:
        yield f"{name}: median {found['median']:.2f} {unit}, promised at most {median} {unit}"
    if maximum is not None and found["max"] > maximum:
        yield f"{name}: maximum {found['max']:.2f} {unit}, promised at most {maximum} {unit}"


def finish(flags, result, lines):
    """Prints the result and ends with 1 when a promise is broken."""
    if flags.json:
        print(json.dumps(result))
    else:
        print("\n".join(lines))
    for broken in result["broken"]:
        say(f"broken: {broken}")
    raise SystemExit(1 if result["broken"] else 0)
