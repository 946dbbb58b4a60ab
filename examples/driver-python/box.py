"""Sandboxes and what runs in them."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import driver_pb2 as pb

MAX_OUTPUT = 64 << 20  # bytes kept of one exec
CHUNK = 64 << 10
STDOUT, STDERR = 1, 2


def copy(spec):
    c = pb.Spec()
    c.CopyFrom(spec)
    return c


class Refused(Exception):
    """An error with a kind of the protocol."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


class Box:
    """One sandbox: a folder, and a group that bounds what runs in it."""

    def __init__(self, spec, groups):
        self.spec = copy(spec)
        self.created = time.time_ns()
        self.lock = threading.Lock()
        self.runs = {}
        self.gone = self.over = False
        self.until = spec.until_boottime_ns  # the end of its lease; 0 = none
        self.lease = None
        res = spec.resources
        try:
            self.group = groups.make(res.cpu, res.memory_mb, res.pids)
        except OSError as e:
            raise Refused("unavailable", "a control group: %s" % e)
        self.dir = tempfile.mkdtemp(prefix="box")  # below TMPDIR, which goes with this process
        with self.lock:
            self.watch()

    def is_of(self, spec):
        """Whether it was made of this spec; its end is moved by extend alone."""
        spec = copy(spec)
        spec.until_boottime_ns = self.spec.until_boottime_ns
        return spec == self.spec

    def watch(self):
        """Ends it when its lease does. The lock is held."""
        if self.lease:
            self.lease.cancel()
        if self.until and not self.gone:
            left = (self.until - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9
            self.lease = threading.Timer(min(max(left, 0), threading.TIMEOUT_MAX), self.expire)
            self.lease.daemon = True
            self.lease.start()

    def expire(self):
        with self.lock:
            if self.gone or not self.until:
                return
            if self.until > time.clock_gettime_ns(time.CLOCK_BOOTTIME):  # it was moved
                self.watch()
                return
            self.over = True
        self.stop(0, "lost")

    def extend(self, until):
        with self.lock:
            if self.gone:
                raise Refused("not_found", "sandbox %s does not exist" % self.spec.id)
            if self.over:
                raise Refused("conflict", "sandbox %s: its time is over" % self.spec.id)
            if self.until and (not until or until > self.until):  # never back
                self.until = until
                self.watch()

    def phase(self):
        with self.lock:
            runs = list(self.runs.values())
        if not runs:
            return "created"
        return "running" if any(r.exit is None for r in runs) else "exited"

    def states(self):
        with self.lock:
            runs = list(self.runs.items())
        return [pb.ExecState(id=i, exit=r.exit, output_bytes=r.kept) for i, r in runs]

    def start(self, spec):
        with self.lock:
            if spec.id in self.runs:
                return self.runs[spec.id]
            if self.gone:
                raise Refused("not_found", "sandbox %s does not exist" % self.spec.id)
            if self.over:
                raise Refused("conflict", "sandbox %s: its time is over" % self.spec.id)
            limit = spec.output_limit or self.spec.resources.output_kb << 10 or MAX_OUTPUT
            r = self.runs[spec.id] = Run(self.dir, self.group, limit, spec)
            return r

    def find(self, exec_id):
        with self.lock:
            if exec_id not in self.runs:
                raise Refused("not_found", "exec %.64r does not exist" % exec_id)
            return self.runs[exec_id]

    def stop(self, grace, cause, ctx=None):
        with self.lock:
            runs = [r for r in self.runs.values() if r.exit is None]
        for r in runs:
            r.end(cause, grace)
        for r in runs:
            r.wait(ctx)

    def destroy(self):
        with self.lock:
            self.gone = True
            if self.lease:
                self.lease.cancel()
        self.stop(0, "cancelled")
        try:
            self.group.remove()
        except OSError as e:
            raise Refused("unavailable", "removing the control group: %s" % e)
        shutil.rmtree(self.dir, ignore_errors=True)


class Run:
    """One exec: bubblewrap, whose child is the first process of a namespace,
    whose child is the main process. A tree of that kind can be killed whole."""

    def __init__(self, workspace, group, limit, spec):
        self.group, self.limit, self.kills = group, limit, spec.on_output == "kill"
        self.before = group.counts()
        self.changed = threading.Condition()
        self.chunks = []  # (offset, stream, bytes)
        self.kept = self.total = 0
        self.exit = None
        self.cause = None
        # bwrap asks to die with its parent, and does not look whether that is dead
        # already: so that is asked for, and looked at, before it is started.
        args = ["bwrap", "--unshare-pid", "--unshare-net", "--die-with-parent", "--new-session"]
        for name in os.listdir("/"):
            if name not in ("workspace", "proc", "sys"):
                args += ["--dev-bind", "/" + name, "/" + name]
        info, info_end = os.pipe()
        args += ["--info-fd", str(info_end), "--proc", "/proc", "--bind", workspace, "/workspace",
                 "--chdir", spec.cwd or "/workspace", "--", "env", "-i", *spec.env, *spec.argv]
        args = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", '[ "$PPID" = "$0" ] || exit 1; exec "$@"', str(os.getpid()), *group.enter(args)]
        try:
            self.process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[info_end])
        except OSError as e:
            os.close(info)
            raise Refused("unavailable", "bwrap: %s" % e)
        finally:
            os.close(info_end)
        with open(info) as f:
            said = f.read()
        try:
            self.init = json.loads(said)["child-pid"]
        except ValueError:
            self.process.kill()
            raise Refused("unavailable", "bwrap does not start")
        self.init_fd = os.pidfd_open(self.init)
        self.threads = [threading.Thread(target=self.read, args=(f, s), daemon=True)
                        for f, s in ((self.process.stdout, STDOUT), (self.process.stderr, STDERR))]
        self.timer = None
        timeout = spec.timeout.seconds + spec.timeout.nanos / 1e9
        if timeout > 0:
            grace = spec.grace.seconds + spec.grace.nanos / 1e9
            self.timer = threading.Timer(timeout, self.end, ("timeout", grace))
            self.timer.daemon = True
            self.timer.start()
        for t in self.threads + [threading.Thread(target=self.feed, args=(spec.stdin,), daemon=True), threading.Thread(target=self.reap, daemon=True)]:
            t.start()

    def feed(self, data):
        try:
            self.process.stdin.write(data)
            self.process.stdin.close()
        except OSError:
            pass  # it does not read, or has ended

    def read(self, f, stream):
        while data := f.raw.read(CHUNK) if hasattr(f, "raw") else f.read(CHUNK):
            with self.changed:
                self.total += len(data)
                data = data[:max(0, self.limit - self.kept)]
                if data:
                    self.chunks.append((self.kept, stream, data))
                    self.kept += len(data)
                    self.changed.notify_all()
                full = self.kills and self.total > self.limit
            if full:
                self.end("output", 0)
        f.close()

    def reap(self):
        code = self.process.wait()
        self.kill()  # whatever is left
        for t in self.threads:
            t.join()
        if self.timer:
            self.timer.cancel()
        exit = pb.Exit(cause="exit", code=code, attested="kernel")
        if code > 128 and code - 128 in {int(s) for s in signal.Signals}:  # as a shell says it
            exit.cause, exit.code, exit.signal = "signal", -1, signal.Signals(code - 128).name
        ooms, refused, cpu = (now - before for now, before in zip(self.group.counts(), self.before))
        if ooms > 0:  # of two that end at once either may be blamed
            exit.cause, exit.message = "oom", "it used more memory than it may"
        elif refused > 0 and code != 0:
            exit.cause, exit.message = "pids", "it failed after it was refused a process"
        exit.usage.cpu_usec, exit.usage.memory_peak_bytes = max(0, cpu), self.group.peak()
        with self.changed:
            exit.cause = self.cause or exit.cause
            exit.output_bytes, exit.total_bytes, exit.truncated = self.kept, self.total, self.kept < self.total
            self.exit = exit
            os.close(self.init_fd)
            self.changed.notify_all()

    def stream(self, offset, ctx):
        """Yields the events from offset on, until the end or the caller's."""
        def wake():
            with self.changed:
                self.changed.notify_all()

        ctx.add_callback(wake)
        n = 0
        while ctx.is_active():
            with self.changed:
                while n < len(self.chunks) and self.chunks[n][0] + len(self.chunks[n][2]) <= offset:
                    n += 1
                chunk = self.chunks[n] if n < len(self.chunks) else None
                if chunk is None and self.exit is None:
                    self.changed.wait(1)
                    continue
            if chunk is None:
                yield pb.ExecEvent(offset=offset, exit=self.exit)
                return
            at, stream, data = chunk
            data = data[max(0, offset - at):]
            yield pb.ExecEvent(stream=stream, offset=max(at, offset), data=data)
            offset = max(at, offset) + len(data)

    def signal(self, name):
        number = getattr(signal.Signals, name, None) if name.startswith("SIG") and len(name) < 20 else None
        if number is None:
            raise Refused("invalid", "signal %.40r is not known" % name)
        with self.changed:  # so that its pid is not another's by now
            if self.exit is not None:
                raise Refused("conflict", "the exec has ended")
            if number == signal.SIGKILL:
                self.kill()
            else:
                self.send(number)

    def send(self, number):
        """Signals the process group; the namespace's first process ignores it."""
        try:
            os.killpg(self.init, number)
        except ProcessLookupError:
            pass

    def kill(self):
        try:
            signal.pidfd_send_signal(self.init_fd, signal.SIGKILL)
        except OSError:
            pass  # it has ended

    def end(self, cause, grace):
        """Ends the tree: TERM, and KILL after grace. The first cause counts."""
        with self.changed:
            if self.exit is not None:
                return
            self.cause = self.cause or cause
            if grace > 0:
                self.send(signal.SIGTERM)
        threading.Thread(target=self.kill_after, args=(grace,), daemon=True).start()

    def kill_after(self, grace):
        with self.changed:
            self.changed.wait_for(lambda: self.exit is not None, grace)
            if self.exit is None:
                self.kill()

    def wait(self, ctx=None):
        with self.changed:
            while self.exit is None and (ctx is None or ctx.is_active()):
                self.changed.wait(1)
