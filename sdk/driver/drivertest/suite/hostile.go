package suite

import (
	"bytes"
	"math"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverpb"
)

func hostileCases() []testCase {
	return []testCase{
		{"RefusesHostileMessages", refusesHostileMessages},
		{"RefusesHugeMessages", func(t T, fx *fixture) {
			fx.needConn(t)
			pb := driverpb.NewDriverClient(fx.conn)
			huge := bytes.Repeat([]byte(" "), 8<<20)
			_, err := pb.Configure(fx.ctx(t), &driverpb.ConfigureRequest{Config: huge}, grpc.MaxCallSendMsgSize(64<<20))
			wantCode(t, "a message of 8 MiB", err, codes.ResourceExhausted)
			if _, err := fx.d.Describe(fx.ctx(t)); err != nil {
				t.Errorf("describe after a huge message: %v", err)
			}
		}},
		{"RefusesUnknownMethods", func(t T, fx *fixture) {
			fx.needConn(t)
			err := fx.conn.Invoke(fx.ctx(t), "/nofx.driver.v1.Driver/NoSuchMethod", &emptypb.Empty{}, &emptypb.Empty{})
			wantCode(t, "an unknown method", err, codes.Unimplemented)
		}},
		{"RefusesBadConfiguration", func(t T, fx *fixture) {
			fx.needConn(t)
			pb := driverpb.NewDriverClient(fx.conn)
			for _, config := range []string{"", "{", "no JSON", `{"no-such-field-at-all":1}`, `[]`, `"text"`, strings.Repeat("[", 100_000)} {
				_, err := pb.Configure(fx.ctx(t), &driverpb.ConfigureRequest{Config: []byte(config)})
				if config == `{"no-such-field-at-all":1}` {
					continue // the daemon checks it against the schema: only the process must live
				}
				wantCode(t, "the configuration "+config[:min(len(config), 20)], err, codes.InvalidArgument)
			}
			if err := fx.d.Configure(fx.ctx(t), fx.Config); err != nil {
				t.Errorf("configure after bad ones: %v", err)
			}
			h := fx.create(t)
			if r := fx.run(t, h, fx.exec(fx.Programs.Exit(0))); r.exit.Code != 0 {
				t.Errorf("exec after bad configurations: %+v", *r.exit)
			}
		}},
	}
}

func (fx *fixture) needConn(t T) {
	t.Helper()
	if fx.conn == nil {
		t.Skip("there is no connection to the driver to send such messages on")
	}
}

// refusesHostileMessages sends what no client of ours would, and looks whether
// the driver's process and its sandbox are still there.
func refusesHostileMessages(t T, fx *fixture) {
	fx.needConn(t)
	pb := driverpb.NewDriverClient(fx.conn)
	ctx := fx.ctx(t)
	h := fx.create(t)
	good := &driverpb.Handle{Driver: h.Driver, Id: h.ID, Version: int32(h.Version), Data: h.Data}
	exec := func(s *driverpb.ExecSpec, h *driverpb.Handle) error {
		stream, err := pb.Exec(ctx, &driverpb.ExecRequest{Handle: h, Spec: s})
		for err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	attach := func(h *driverpb.Handle, id string, offset int64) error {
		stream, err := pb.Attach(ctx, &driverpb.AttachRequest{Handle: h, ExecId: id, Offset: offset})
		for err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	copyIn := func(messages ...*driverpb.CopyInRequest) error {
		stream, err := pb.CopyIn(ctx)
		if err != nil {
			return err
		}
		for _, m := range messages {
			if err := stream.Send(m); err != nil {
				break // the answer says why
			}
		}
		_, err = stream.CloseAndRecv()
		return err
	}
	bad := []codes.Code{codes.InvalidArgument, codes.NotFound, codes.Unimplemented}
	for what, handle := range map[string]*driverpb.Handle{
		"no handle":       nil,
		"an empty handle": {},
		"a path as id":    {Driver: h.Driver, Id: "../../../../etc", Version: int32(h.Version), Data: h.Data},
		"a NUL in the id": {Driver: h.Driver, Id: "a\x00b", Version: int32(h.Version), Data: h.Data},
		"huge data":       {Driver: h.Driver, Id: h.ID, Version: int32(h.Version), Data: make([]byte, driver.MaxHandle+1)},
		"a minus version": {Driver: h.Driver, Id: h.ID, Version: -1, Data: h.Data},
	} {
		unknown := bad
		if handle.GetDriver() == h.Driver && handle.GetId() != h.ID {
			unknown = append(slices.Clone(bad), codes.OK) // there is no such sandbox: gone
		}
		recovered, err := pb.Recover(ctx, &driverpb.RecoverRequest{Handle: handle})
		wantCode(t, "recover with "+what, err, unknown...)
		if err == nil && recovered.GetPhase() != string(driver.PhaseGone) {
			t.Errorf("recover with %s: phase %q, want gone or an error", what, recovered.GetPhase())
		}
		_, err = pb.Destroy(ctx, &driverpb.DestroyRequest{Handle: handle})
		wantCode(t, "destroy with "+what, err, unknown...)
		_, err = pb.Stop(ctx, &driverpb.StopRequest{Handle: handle, Cause: "cancelled", Grace: durationpb.New(0)})
		wantCode(t, "stop with "+what, err, bad...)
		_, err = pb.Signal(ctx, &driverpb.SignalRequest{Handle: handle, ExecId: "main", Signal: "SIGTERM"})
		wantCode(t, "signal with "+what, err, bad...)
		_, err = pb.Stats(ctx, &driverpb.StatsRequest{Handle: handle})
		wantCode(t, "stats with "+what, err, bad...)
		wantCode(t, "attach with "+what, attach(handle, "main", 0), bad...)
		wantCode(t, "exec with "+what, exec(&driverpb.ExecSpec{Id: "x", Argv: fx.Programs.Exit(0), Env: fx.Env}, handle), bad...)
		wantCode(t, "copy in with "+what, copyIn(&driverpb.CopyInRequest{Handle: handle, Dir: "/workspace"}), bad...)
	}
	_, err := pb.Create(ctx, &driverpb.CreateRequest{})
	wantCode(t, "create without a spec", err, codes.InvalidArgument)
	_, err = pb.Create(ctx, &driverpb.CreateRequest{Spec: &driverpb.Spec{Id: "../x", Tags: &driverpb.Tags{Owner: fx.owner, Id: "x"}}})
	wantCode(t, "create with a path as id", err, codes.InvalidArgument)
	_, err = pb.Create(ctx, &driverpb.CreateRequest{Spec: &driverpb.Spec{Id: "dt-" + random(), Tags: &driverpb.Tags{Owner: fx.owner, Id: "x"}, Resources: &driverpb.Resources{MemoryMb: math.MinInt64, Pids: -5}}})
	wantCode(t, "create with resources below 0", err, codes.InvalidArgument)
	wantCode(t, "exec without a spec", exec(nil, good), codes.InvalidArgument)
	wantCode(t, "exec without argv", exec(&driverpb.ExecSpec{Id: "x"}, good), codes.InvalidArgument)
	wantCode(t, "exec with a path as id", exec(&driverpb.ExecSpec{Id: "../x", Argv: []string{"true"}}, good), codes.InvalidArgument)
	wantCode(t, "exec with a NUL", exec(&driverpb.ExecSpec{Id: "x", Argv: []string{"a\x00b"}}, good), codes.InvalidArgument)
	wantCode(t, "exec with a relative folder", exec(&driverpb.ExecSpec{Id: "x", Argv: []string{"true"}, Cwd: "x"}, good), codes.InvalidArgument)
	wantCode(t, "exec with a timeout below 0", exec(&driverpb.ExecSpec{Id: "x", Argv: []string{"true"}, Timeout: durationpb.New(-1)}, good), codes.InvalidArgument)
	wantCode(t, "attach to an exec with a path as id", attach(good, "../../etc/passwd", 0), codes.InvalidArgument, codes.NotFound)
	_, err = pb.Stop(ctx, &driverpb.StopRequest{Handle: good, Cause: "because", Grace: durationpb.New(0)})
	wantCode(t, "stop for no cause", err, codes.InvalidArgument)
	_, err = pb.Stop(ctx, &driverpb.StopRequest{Handle: good, Cause: "cancelled", Grace: durationpb.New(-1)})
	wantCode(t, "stop with a grace below 0", err, codes.InvalidArgument)
	_, err = pb.Signal(ctx, &driverpb.SignalRequest{Handle: good, ExecId: "main", Signal: strings.Repeat("S", 1<<20)})
	wantCode(t, "signal with a long name", err, codes.InvalidArgument, codes.NotFound)
	if fx.desc.Capabilities.Has(driver.CapFiles) {
		wantCode(t, "copy in without a first message", copyIn(), codes.InvalidArgument)
		wantCode(t, "copy in of bytes for nobody", copyIn(&driverpb.CopyInRequest{Data: []byte("x")}), bad...)
		wantCode(t, "copy in to a path with NUL", copyIn(&driverpb.CopyInRequest{Handle: good, Dir: "/a\x00b"}), codes.InvalidArgument, codes.OK)
	}
	if st, err := fx.d.Recover(fx.ctx(t), h); err != nil || st.Phase != driver.PhaseCreated {
		t.Errorf("after hostile messages the sandbox is %+v, %v; want created", st, err)
	}
	if all, err := fx.d.List(fx.ctx(t), fx.owner); err != nil || len(all) != 1 {
		t.Errorf("after hostile messages there are %d sandboxes (%v), want 1", len(all), err)
	}
	if r := fx.run(t, h, fx.exec(fx.Programs.Exit(5))); r.exit.Code != 5 {
		t.Errorf("exec after hostile messages: %+v", *r.exit)
	}
}

func wantCode(t T, what string, err error, want ...codes.Code) {
	t.Helper()
	if got := status.Code(err); !slices.Contains(want, got) {
		t.Errorf("%s: got %s (%v), want %v", what, got, err, want)
	}
}
