package driverrpc

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverpb"
	"github.com/nofx-run/nofx/sdk/step"
)

func handleToPB(h driver.Handle) *driverpb.Handle {
	return &driverpb.Handle{Driver: h.Driver, Id: h.ID, Version: int32(h.Version), Data: h.Data}
}

func handleFromPB(h *driverpb.Handle) driver.Handle {
	return driver.Handle{Driver: h.GetDriver(), ID: h.GetId(), Version: int(h.GetVersion()), Data: h.GetData()}
}

func tagsToPB(t driver.Tags) *driverpb.Tags {
	return &driverpb.Tags{Owner: t.Owner, Id: t.ID}
}

func tagsFromPB(t *driverpb.Tags) driver.Tags {
	return driver.Tags{Owner: t.GetOwner(), ID: t.GetId()}
}

func specToPB(s driver.Spec) *driverpb.Spec {
	p := &driverpb.Spec{
		Id:   s.ID,
		Tags: tagsToPB(s.Tags),
		Resources: &driverpb.Resources{
			Cpu: s.Resources.CPU, MemoryMb: s.Resources.MemoryMB, Pids: s.Resources.Pids,
			DiskMb: s.Resources.DiskMB, OutputKb: s.Resources.OutputKB, IoMbS: s.Resources.IOMBs,
		},
		Network:         string(s.Network),
		NetworkAllow:    s.Egress.Allow,
		NetworkPrivate:  s.Egress.Private,
		Image:           s.Image,
		Isolation:       s.Isolation,
		UntilBoottimeNs: int64(s.Until),
	}
	if h := s.Host; h != nil {
		p.Host = &driverpb.HostSpec{
			Cgroup:  &driverpb.Cgroup{V2: h.Cgroup.V2, V1: h.Cgroup.V1},
			UidBase: h.UIDBase, UidCount: h.UIDCount,
			Supervisor: &driverpb.Cgroup{V2: h.Supervisor.V2, V1: h.Supervisor.V1},
			Workspace:  h.Workspace, WorkspaceUid: h.WorkspaceUID,
		}
	}
	return p
}

func specFromPB(p *driverpb.Spec) driver.Spec {
	r := p.GetResources()
	s := driver.Spec{
		ID:   p.GetId(),
		Tags: tagsFromPB(p.GetTags()),
		Resources: step.Resources{
			CPU: r.GetCpu(), MemoryMB: r.GetMemoryMb(), Pids: r.GetPids(),
			DiskMB: r.GetDiskMb(), OutputKB: r.GetOutputKb(), IOMBs: r.GetIoMbS(),
		},
		Network:   step.Network(p.GetNetwork()),
		Egress:    step.Egress{Allow: p.GetNetworkAllow(), Private: p.GetNetworkPrivate()},
		Image:     p.GetImage(),
		Isolation: p.GetIsolation(),
		Until:     driver.Deadline(p.GetUntilBoottimeNs()),
	}
	if h := p.GetHost(); h != nil {
		s.Host = &driver.HostSpec{
			Cgroup:     driver.Cgroup{V2: h.GetCgroup().GetV2(), V1: h.GetCgroup().GetV1()},
			Supervisor: driver.Cgroup{V2: h.GetSupervisor().GetV2(), V1: h.GetSupervisor().GetV1()},
			UIDBase:    h.GetUidBase(), UIDCount: h.GetUidCount(),
			Workspace: h.GetWorkspace(), WorkspaceUID: h.GetWorkspaceUid(),
		}
	}
	return s
}

func execSpecToPB(e driver.ExecSpec) *driverpb.ExecSpec {
	p := &driverpb.ExecSpec{
		Id: e.ID, Argv: e.Argv, Env: e.Env, Cwd: e.Cwd, User: e.User, Stdin: e.Stdin,
		Timeout: durationpb.New(e.Timeout), Grace: durationpb.New(e.Grace),
		OutputLimit: e.OutputLimit, OnOutput: string(e.OnOutput),
	}
	if e.TTY != nil {
		p.Tty = &driverpb.TTY{Cols: uint32(e.TTY.Cols), Rows: uint32(e.TTY.Rows)}
	}
	return p
}

func execSpecFromPB(p *driverpb.ExecSpec) driver.ExecSpec {
	e := driver.ExecSpec{
		ID: p.GetId(), Argv: p.GetArgv(), Env: p.GetEnv(), Cwd: p.GetCwd(), User: p.GetUser(), Stdin: p.GetStdin(),
		Timeout: durationFromPB(p.GetTimeout()), Grace: durationFromPB(p.GetGrace()),
		OutputLimit: p.GetOutputLimit(), OnOutput: step.OutputMode(p.GetOnOutput()),
	}
	if t := p.GetTty(); t != nil {
		e.TTY = &driver.TTY{Cols: uint16(min(t.GetCols(), 65535)), Rows: uint16(min(t.GetRows(), 65535))}
	}
	return e
}

// durationFromPB is 0 for an absent duration.
func durationFromPB(d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return d.AsDuration()
}

func exitToPB(x *driver.Exit) *driverpb.Exit {
	if x == nil {
		return nil
	}
	return &driverpb.Exit{
		Cause: string(x.Cause), Code: int32(x.Code), Signal: clean(x.Signal), Attested: clean(x.Attested), Message: clean(x.Message),
		Usage: &driverpb.Usage{
			WallMs: x.Usage.WallMS, CpuUsec: x.Usage.CPUUsec, MemoryPeakBytes: x.Usage.MemoryPeakBytes, PidsPeak: x.Usage.PidsPeak,
			IoReadBytes: x.Usage.IOReadBytes, IoWriteBytes: x.Usage.IOWriteBytes, OutputBytes: x.Usage.OutputBytes,
			NetRxBytes: x.Usage.NetRxBytes, NetTxBytes: x.Usage.NetTxBytes, DiskBytes: x.Usage.DiskBytes,
		},
		OutputBytes: x.OutputBytes, TotalBytes: x.TotalBytes, Truncated: x.Truncated,
	}
}

func exitFromPB(p *driverpb.Exit) *driver.Exit {
	if p == nil {
		return nil
	}
	u := p.GetUsage()
	return &driver.Exit{
		Cause: step.Cause(p.GetCause()), Code: int(p.GetCode()), Signal: p.GetSignal(), Attested: p.GetAttested(), Message: clean(p.GetMessage()),
		Usage: step.Usage{
			WallMS: u.GetWallMs(), CPUUsec: u.GetCpuUsec(), MemoryPeakBytes: u.GetMemoryPeakBytes(), PidsPeak: u.GetPidsPeak(),
			IOReadBytes: u.GetIoReadBytes(), IOWriteBytes: u.GetIoWriteBytes(), OutputBytes: u.GetOutputBytes(),
			NetRxBytes: u.GetNetRxBytes(), NetTxBytes: u.GetNetTxBytes(), DiskBytes: u.GetDiskBytes(),
		},
		OutputBytes: p.GetOutputBytes(), TotalBytes: p.GetTotalBytes(), Truncated: p.GetTruncated(),
	}
}

func stateToPB(s driver.State) *driverpb.RecoverResponse {
	p := &driverpb.RecoverResponse{Phase: string(s.Phase)}
	for _, e := range s.Execs {
		p.Execs = append(p.Execs, &driverpb.ExecState{Id: e.ID, Exit: exitToPB(e.Exit), OutputBytes: e.OutputBytes})
	}
	return p
}

func stateFromPB(p *driverpb.RecoverResponse) driver.State {
	s := driver.State{Phase: driver.Phase(p.GetPhase())}
	for _, e := range p.GetExecs() {
		s.Execs = append(s.Execs, driver.ExecState{ID: e.GetId(), Exit: exitFromPB(e.GetExit()), OutputBytes: e.GetOutputBytes()})
	}
	return s
}

func statsToPB(s driver.Stats) *driverpb.StatsResponse {
	return &driverpb.StatsResponse{
		CpuUsec: s.CPUUsec, MemoryBytes: s.MemoryBytes, MemoryPeak: s.MemoryPeak, Pids: s.Pids, PidsPeak: s.PidsPeak,
		IoReadBytes: s.IOReadBytes, IoWriteBytes: s.IOWriteBytes, NetRxBytes: s.NetRxBytes, NetTxBytes: s.NetTxBytes,
	}
}

func statsFromPB(p *driverpb.StatsResponse) driver.Stats {
	return driver.Stats{
		CPUUsec: p.GetCpuUsec(), MemoryBytes: p.GetMemoryBytes(), MemoryPeak: p.GetMemoryPeak(), Pids: p.GetPids(), PidsPeak: p.GetPidsPeak(),
		IOReadBytes: p.GetIoReadBytes(), IOWriteBytes: p.GetIoWriteBytes(), NetRxBytes: p.GetNetRxBytes(), NetTxBytes: p.GetNetTxBytes(),
	}
}
