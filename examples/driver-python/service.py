"""The service nofx.driver.v1.Driver, and what go-plugin wants beside it."""

import functools
import math
import re
import time

import grpc

import driver_pb2 as pb
from box import MAX_OUTPUT, Box, Refused
from cgroup import Groups

NAME = "python"
CAPABILITIES = ["multiexec", "cap.walltime", "cap.output", "net.none", "lease"]
ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\Z")

CODES = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "conflict": grpc.StatusCode.ABORTED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "unsupported": grpc.StatusCode.UNIMPLEMENTED,
}


def valid_id(s, limit):
    return len(s) <= limit and ID.match(s) is not None


def seconds(d):
    return d.seconds + d.nanos / 1e9


class Driver:
    """Holds the sandboxes; they end with this process."""

    def __init__(self):
        import threading

        self.lock = threading.Lock()
        self.boxes = {}
        self.groups = Groups()
        self.capabilities = CAPABILITIES + self.groups.capabilities()

    def close(self):
        with self.lock:
            boxes = list(self.boxes.values())
        for b in boxes:
            try:
                b.destroy()
            except Refused:
                pass  # its group is empty: the next process removes it

    # Calls. Each takes a request and the call's context.

    def Describe(self, r, ctx):
        return pb.DescribeResponse(
            name=NAME, version="0.1.0", protocol_versions=[1], capabilities=self.capabilities,
            config_schema=b'{"type": "object", "additionalProperties": false}',
            warnings=["no isolation: steps run on the host, with the rights of this driver"])

    def Configure(self, r, ctx):
        import json

        try:
            config = json.loads(r.config)
        except (ValueError, RecursionError) as e:
            raise Refused("invalid", "configuration: %s" % type(e).__name__)
        if not isinstance(config, dict):
            raise Refused("invalid", "configuration: not an object")
        return pb.ConfigureResponse()

    def Create(self, r, ctx):
        s = r.spec
        check_spec(s, self.capabilities)
        with self.lock:
            b = self.boxes.get(s.id)
            if b is None:
                self.boxes[s.id] = Box(s, self.groups)
            elif not b.is_of(s):
                raise Refused("conflict", "sandbox %s exists with another spec" % s.id)
        return pb.CreateResponse(handle=self.handle(s.id))

    def Recover(self, r, ctx):
        try:
            b = self.find(r.handle)
        except Refused as e:
            if e.kind == "not_found":
                return pb.RecoverResponse(phase="gone")
            raise
        return pb.RecoverResponse(phase=b.phase(), execs=b.states())

    def Extend(self, r, ctx):
        self.find(r.handle).extend(r.until_boottime_ns)
        return pb.ExtendResponse()

    def Exec(self, r, ctx):
        check_exec(r.spec)
        return self.find(r.handle).start(r.spec).stream(0, ctx)

    def Attach(self, r, ctx):
        if r.offset < 0:
            raise Refused("invalid", "offset %d" % r.offset)
        return self.find(r.handle).find(r.exec_id).stream(r.offset, ctx)

    def Signal(self, r, ctx):
        self.find(r.handle).find(r.exec_id).signal(r.signal)
        return pb.SignalResponse()

    def Stop(self, r, ctx):
        grace = seconds(r.grace)
        if grace < 0 or r.cause not in ("cancelled", "timeout"):
            raise Refused("invalid", "stop: grace %s, cause %.40r" % (grace, r.cause))
        self.find(r.handle).stop(grace, r.cause, ctx)
        return pb.StopResponse()

    def Destroy(self, r, ctx):
        try:
            b = self.find(r.handle)
        except Refused as e:
            if e.kind == "not_found":
                return pb.DestroyResponse()
            raise
        b.destroy()
        with self.lock:
            if self.boxes.get(r.handle.id) is b:
                del self.boxes[r.handle.id]
        return pb.DestroyResponse()

    def CopyIn(self, requests, ctx):
        self.find(next(requests, pb.CopyInRequest()).handle)
        raise Refused("unsupported", "this driver does not have files")

    def CopyOut(self, r, ctx):
        raise Refused("unsupported", "this driver does not have files")

    def Stats(self, r, ctx):
        self.find(r.handle)
        raise Refused("unsupported", "this driver does not have stats")

    def Health(self, r, ctx):
        def stream():
            while ctx.is_active():
                yield pb.HealthResponse(healthy=True)
                until = time.monotonic() + 9
                while ctx.is_active() and time.monotonic() < until:
                    time.sleep(0.1)

        return stream()

    def List(self, r, ctx):
        with self.lock:
            owned = [b for b in self.boxes.values() if b.spec.tags.owner == r.owner]
        for b in owned:
            m = pb.ListResponse(handle=self.handle(b.spec.id), tags=b.spec.tags, phase=b.phase())
            m.created_at.FromNanoseconds(b.created)
            yield m

    def Invoke(self, r, ctx):
        raise Refused("unsupported", "this driver runs no functions")

    def handle(self, box_id):
        return pb.Handle(driver=NAME, id=box_id, version=1)

    def find(self, h):
        if h.driver != NAME or h.version != 1 or len(h.data) > 16 << 10 or not valid_id(h.id, 128):
            raise Refused("invalid", "not a handle of this driver")
        with self.lock:
            b = self.boxes.get(h.id)
        if b is None:
            raise Refused("not_found", "sandbox %s does not exist" % h.id)
        return b


def check_spec(s, capabilities):
    """Refuses what is not valid, and what this driver does not have."""
    res = s.resources
    if not valid_id(s.id, 128) or not s.tags.owner or not s.tags.id:
        raise Refused("invalid", "a sandbox needs an id of 1 to 128 of [A-Za-z0-9._-] and both tags")
    if not math.isfinite(res.cpu) or min(res.cpu, res.memory_mb, res.pids, res.disk_mb, res.io_mb_s, res.output_kb) < 0:
        raise Refused("invalid", "a resource is negative, or no number")
    if s.network not in ("", "none", "allow", "open"):
        raise Refused("invalid", "network %.40r is not known" % s.network)
    needs = {
        "cap.cpu": res.cpu > 0, "cap.memory": res.memory_mb > 0, "cap.pids": res.pids > 0, "cap.disk": res.disk_mb > 0, "cap.blockio": res.io_mb_s > 0,
        "cap.output": res.output_kb > 0, "net.none": s.network == "none", "net.allow": s.network == "allow", "net.open": s.network == "open",
        "lease": s.until_boottime_ns != 0, "host": s.HasField("host"),
    }
    for need, asked in needs.items():
        if asked and need not in capabilities:
            raise Refused("unsupported", "this driver does not have %s" % need)
    if s.image or s.isolation:
        raise Refused("unsupported", "this driver has no images and no isolation")
    if res.output_kb << 10 > MAX_OUTPUT:
        raise Refused("unsupported", "this driver keeps no more than %d bytes of an exec's output" % MAX_OUTPUT)


def check_exec(e):
    words = list(e.argv) + list(e.env)
    if not valid_id(e.id, 64) or not e.argv or not e.argv[0]:
        raise Refused("invalid", "an exec needs an id of 1 to 64 of [A-Za-z0-9._-] and argv")
    if len(words) > 4096 or sum(len(w.encode()) + 1 for w in words) > 1 << 20 or len(e.stdin) > 1 << 20:
        raise Refused("invalid", "the exec is too large")
    if any("\0" in w for w in words) or any(v.find("=") <= 0 for v in e.env):
        raise Refused("invalid", "an argument has a NUL byte, or a variable is not NAME=VALUE")
    if e.cwd and (not e.cwd.startswith("/") or "\0" in e.cwd):
        raise Refused("invalid", "cwd is not an absolute path")
    if seconds(e.timeout) < 0 or seconds(e.grace) < 0 or e.output_limit < 0:
        raise Refused("invalid", "a limit is negative")
    if e.on_output not in ("", "truncate", "kill"):
        raise Refused("invalid", "on_output %.40r is not known" % e.on_output)
    if e.HasField("tty") or e.user:
        raise Refused("unsupported", "this driver has no terminals and no users")
    if e.output_limit > MAX_OUTPUT:
        raise Refused("unsupported", "this driver keeps no more than %d bytes of an exec's output" % MAX_OUTPUT)


def handlers(driver, shut_down):
    """The generic handlers of all services."""

    def unary(call):
        @functools.wraps(call)
        def run(request, ctx):
            try:
                return call(request, ctx)
            except Refused as e:
                ctx.abort(CODES[e.kind], str(e))

        return run

    def stream(call):
        @functools.wraps(call)
        def run(request, ctx):
            try:
                yield from call(request, ctx)
            except Refused as e:
                ctx.abort(CODES[e.kind], str(e))

        return run

    methods = {}
    for name, m in pb.DESCRIPTOR.services_by_name["Driver"].methods_by_name.items():
        call = getattr(driver, name, None)
        if call is None:
            continue  # of a later protocol than this driver speaks: gRPC answers that it is not there
        read, write = getattr(pb, m.input_type.name).FromString, getattr(pb, m.output_type.name).SerializeToString
        if name == "CopyIn":
            methods[name] = grpc.stream_unary_rpc_method_handler(unary(call), read, write)
        elif name in ("Exec", "Attach", "CopyOut", "Health", "List"):
            methods[name] = grpc.unary_stream_rpc_method_handler(stream(call), read, write)
        else:
            methods[name] = grpc.unary_unary_rpc_method_handler(unary(call), read, write)

    def shutdown(request, ctx):
        ctx.add_callback(shut_down)  # once it is answered
        return b""

    return (
        grpc.method_handlers_generic_handler("nofx.driver.v1.Driver", methods),
        grpc.method_handlers_generic_handler("plugin.GRPCController", {"Shutdown": grpc.unary_unary_rpc_method_handler(shutdown)}),
        # HealthCheckResponse{status: SERVING}
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(lambda r, ctx: b"\x08\x01")}),
    )
