"""Machines that run a benchmark CD, and what they say on their serial ports."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("OXBOX_BIN") or os.path.join(
    os.environ.get("CARGO_TARGET_DIR") or os.path.join(TREE, "target"), "release")
MEMORY_MIB = 512
# Seconds of silence after which a machine counts as stuck, and of one run.
SILENCE, RUN_LIMIT = 90, 900


def say(text):
    print(f"benches: {text}", file=sys.stderr, flush=True)


def guest(kind):
    done = subprocess.run([os.path.join(TREE, "guests", "bench-cd"), kind], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


class Session:
    """What a guest has said, with the time of each line's arrival, and what it is to be told."""

    def __init__(self, request=""):
        self.start = self.heard = time.monotonic()
        self.request = request
        self.lines = []
        self.rest = ""
        self.seen = {}

    def take(self, chunk):
        """Takes what came; returns what is to be sent, if anything."""
        self.heard = time.monotonic()
        *lines, self.rest = (self.rest + chunk.decode("utf-8", "replace")).split("\n")
        answer = b""
        for line in lines:
            self.lines.append((self.heard - self.start, line.strip()))
            for marker in ("BENCH-BOOT", "BENCH-INIT", "BENCH-END"):
                if line.strip().endswith(marker) and marker not in self.seen:
                    self.seen[marker] = self.heard - self.start
                    if marker == "BENCH-INIT":
                        answer = f"{self.request or 'none'}\n".encode()
        return answer

    def over(self):
        now = time.monotonic()
        return "BENCH-END" in self.seen or now - self.heard > SILENCE or now - self.start > RUN_LIMIT

    def result(self, what):
        """The rows that were reached; a machine that stopped half way is reported, not fatal."""
        if "BENCH-END" not in self.seen:
            say(f"{what} did not get to the end; its last words:\n" + "\n".join(line for _, line in self.lines[-8:]) + self.rest)
        boot, init = self.seen.get("BENCH-BOOT"), self.seen.get("BENCH-INIT")
        rows = rows_of("\n".join(line for _, line in self.lines))
        rows.update(timed_rows(self.lines))
        return {"boot": init, "kernel": init - boot if init and boot else None, "rows": rows}


def rows_of(text):
    found = re.findall(r"BENCH ([\w.]+) ([0-9.]+) ([0-9a-f]{16})", text)
    return {name: (float(ns), checksum) for name, ns, checksum in found}


def timed_rows(lines):
    """Rows of guests without a clock: `BEGIN name` and `DONE name checksum`, timed here."""
    begun, rows = {}, {}
    for when, line in lines:
        word, *rest = line.split() or [""]
        if word == "BEGIN" and len(rest) == 1:
            begun[rest[0]] = when
        elif word == "DONE" and len(rest) == 2 and rest[0] in begun:
            rows[rest[0]] = ((when - begun[rest[0]]) * 1e9, rest[1])
    return rows


def run_native(seconds, names):
    """The same files on the host, with their own loader and libraries."""
    scratch = tempfile.mkdtemp(prefix="oxbox-bench-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    root = tempfile.mkdtemp(prefix="oxbox-bench-")
    rows = {}
    try:
        with tarfile.open(guest("files")) as files:
            files.extractall(root)
        environment = dict(os.environ, BENCH_ROOT=root, BENCH_SCRATCH=scratch)
        for program in ("init", "bench32"):
            done = subprocess.run([os.path.join(root, program), str(seconds), ",".join(names)], env=environment,
                                  stdout=subprocess.PIPE, text=True)
            if done.returncode:
                say(f"native: {program} failed ({done.returncode}); its last words: {done.stdout[-100:]}")
            rows.update(rows_of(done.stdout))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(root, ignore_errors=True)
    return {"rows": rows}


def over_pipes(command, session, what):
    """Runs a machine whose serial port is the standard streams of its process."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    os.set_blocking(process.stdout.fileno(), False)
    try:
        while not session.over():
            try:
                chunk = os.read(process.stdout.fileno(), 65536)
            except BlockingIOError:
                time.sleep(0.001)
                continue
            if not chunk:
                break
            if answer := session.take(chunk):
                process.stdin.write(answer)
                process.stdin.flush()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return session.result(what)


def run_tcg(image, request="", cpus=1):
    return over_pipes(
        ["qemu-system-x86_64", "-machine", "pc", "-accel", "tcg,thread=multi" if cpus > 1 else "tcg", "-cpu", "max",
         "-smp", str(cpus), "-m", str(MEMORY_MIB), "-display", "none", "-nic", "none", "-serial", "stdio",
         "-cdrom", image, "-boot", "d", "-no-reboot"], Session(request), "QEMU")


def run_boot_example(program):
    """Oxbox without settings and service: the vmm's example, for work on the engine."""
    def run(image, request="", cpus=1):
        with tempfile.TemporaryDirectory(prefix="oxbox-bench-") as folder:
            return over_pipes(
                [program, "--engine", "rem", "--ram", str(MEMORY_MIB), "--cpus", str(cpus), "--cdrom", image,
                 "--serial", "stdio", "--seconds", str(RUN_LIMIT), "--log", os.path.join(folder, "log")],
                Session(request), "Oxbox")
    return run


class Oxbox:
    """A settings folder and a service of its own, both gone afterwards."""

    def __init__(self):
        self.home = tempfile.mkdtemp(prefix="oxbox-bench-")
        self.serial = os.path.join(self.home, "serial")
        self.environment = dict(os.environ, VBOX_USER_HOME=self.home, LC_ALL="C")

    def manage(self, *arguments, check=True):
        done = subprocess.run([os.path.join(BIN, "VBoxManage"), *arguments], env=self.environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if check and done.returncode:
            raise RuntimeError(f"VBoxManage {' '.join(arguments)} failed:\n{done.stdout}")
        return done.stdout

    def run(self, image, request, cpus):
        self.manage("createvm", "--name", "bench", "--ostype", "Debian_64", "--register", "--basefolder", self.home)
        self.manage("modifyvm", "bench", "--memory", str(MEMORY_MIB), "--cpus", str(cpus), "--ioapic", "on",
                    "--hwvirtex", "off", "--boot1", "dvd", "--uart1", "0x3F8", "4", "--uartmode1", "server", self.serial)
        self.manage("storagectl", "bench", "--name", "IDE", "--add", "ide")
        self.manage("storageattach", "bench", "--storagectl", "IDE", "--port", "1", "--device", "0",
                    "--type", "dvddrive", "--medium", image)
        session = Session(request)
        self.manage("startvm", "bench", "--type", "headless")
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.serial)
        connection.settimeout(1)
        while not session.over():
            try:
                chunk = connection.recv(65536)
            except TimeoutError:
                continue
            if not chunk:
                break
            if answer := session.take(chunk):
                connection.sendall(answer)
        return session.result("Oxbox")

    def close(self):
        self.manage("controlvm", "bench", "poweroff", check=False)
        for _ in range(20):
            self.manage("unregistervm", "bench", "--delete", check=False)
            if "bench" not in self.manage("list", "vms", check=False):
                break
            time.sleep(0.5)
        shutil.rmtree(self.home, ignore_errors=True)


def run_oxbox(image, request="", cpus=1):
    machine = Oxbox()
    try:
        return machine.run(image, request, cpus)
    except (RuntimeError, OSError) as error:
        say(str(error))
        return {"boot": None, "kernel": None, "rows": {}}
    finally:
        machine.close()
