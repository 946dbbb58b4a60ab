// Package plan checks what a user submits and compiles it into steps that can
// be stored and run. It knows handlers and the rules of plans; it touches no
// database. Everything that is wrong with a plan comes back at once, each
// with its place.
package plan

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nofx-run/nofx/api/internal/handler"
	"github.com/nofx-run/nofx/api/internal/profile"
	"github.com/nofx-run/nofx/api/internal/retry"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Limits of a plan.
const (
	MaxSteps     = 1000
	maxGoal      = 4096 // bytes
	maxName      = 200
	maxDepends   = MaxSteps
	maxTimeoutMS = 24 * 60 * 60 * 1000
	maxArtifacts = 256
	maxImage     = 512
	maxPath      = 1024
	maxPolicy    = 256 // entries in a list of the policy
	maxFields    = 50  // faults told at once
	graceMS      = 10_000
	maxDiskMB    = 16 << 20
)

// Step is one step, ready to be stored.
type Step struct {
	Name         string
	Tool         string
	Driver       string
	OnHost       bool     // the driver's workspaces are folders of its worker
	Handler      string   // its name
	Drivers      []Choice // in order, the driver first
	OnOpen       wire.OnOpen
	Regions      []string        // where it may be, in order; none = anywhere
	Region       string          // of them, where it is placed; "" = anywhere
	DependsOn    []int           // places in the plan
	Inputs       json.RawMessage // compact, in the order that they came in
	Redacted     json.RawMessage // the inputs without what is sensitive; nil = nothing is, and they may lie in clear
	InputsHash   string          // first 12 hex digits, for the idempotency key
	Command      wire.Command
	Reads        string // how the outputs are read, see package handler
	Shown        string // the command, for people
	Resources    step.Resources
	asked        asked
	OnOutput     step.OutputMode
	Network      step.Network
	NetworkAllow []string // rules, with network allow
	Image        string
	Workspace    step.WorkspaceMode
	TimeoutMS    int64
	GraceMS      int64
	Artifacts    []string
	Idempotent   bool
	Priority     int
	Concurrency  wire.Concurrency // no key: not bounded
	Retry        wire.Retry       // whole: the handler's and the step's own
	Spec         wire.PlanStep    // as submitted, without its inputs
	Denied       string           // why policy refuses it; "" = allowed
	named        named            // regions, as submitted
}

// asked is what the step itself asks for, by numbers or by the name of a profile.
// The rest is by default: nobody's wish.
type asked struct {
	step.Resources
	timeoutMS int64
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,255}$`)

// faults collects what is wrong where.
type faults struct {
	list []step.FieldError
}

func (f *faults) add(where string, value any, format string, args ...any) {
	if len(f.list) < maxFields {
		if text, ok := value.(string); ok && len(text) > 100 {
			value = strings.ToValidUTF8(text[:100], "") + "…"
		}
		f.list = append(f.list, step.FieldError{Location: where, Message: fmt.Sprintf(format, args...), Value: value})
	}
}

// Catalog is what plans can name.
type Catalog struct {
	Handlers *handler.Set
	Drivers  Drivers
	Presets  Presets
	Profiles profile.Set
}

// Compile checks a plan. Its error is of kind invalid and names every fault,
// or it is that of have.Drivers.
func Compile(ctx context.Context, p wire.Plan, have Catalog) ([]Step, error) {
	f := &faults{}
	if len(p.Goal) > maxGoal || !printable(p.Goal) {
		f.add("body.plan.goal", p.Goal, "must be text of at most %d bytes", maxGoal)
	}
	if n := p.RetryBudget; n != nil && (*n < 0 || *n > wire.MaxRetryBudget) {
		f.add("body.plan.retry_budget", *n, "must be 0 to %d", wire.MaxRetryBudget)
	}
	f.turn(p, time.Now())
	switch {
	case len(p.Steps) == 0:
		f.add("body.plan.steps", nil, "a plan needs at least one step")
	case len(p.Steps) > MaxSteps:
		f.add("body.plan.steps", len(p.Steps), "a plan has at most %d steps", MaxSteps)
	}
	if len(f.list) > 0 {
		return nil, f.err()
	}
	list, err := have.Drivers.Known(ctx, false)
	if err != nil {
		return nil, err
	}
	offered := &offers{known: have.Drivers, list: list}
	c := compiler{faults: f, handlers: have.Handlers, offers: offered, presets: have.Presets, profiles: have.Profiles, priority: p.Priority}
	c.everywhere = c.regions("body.plan", p.Region, p.Regions)
	out := make([]Step, len(p.Steps))
	depends := make([][]string, len(p.Steps))
	for i, s := range p.Steps {
		out[i], depends[i] = c.one(ctx, fmt.Sprintf("body.plan.steps[%d]", i), s)
	}
	if offered.err != nil {
		return nil, offered.err
	}
	order(f, out, depends)
	shareDisk(f, out)
	shareRegions(f, out)
	if len(f.list) > 0 {
		return nil, f.err()
	}
	return out, nil
}

// shareDisk gives the steps that share their run's workspace the one disk limit
// that it can have: what any of them asks for, or else the most that one of their
// tools has by default.
func shareDisk(f *faults, steps []Step) {
	first, most := -1, int64(0)
	for i, s := range steps {
		if !s.Shares() {
			continue
		}
		want := s.asked.DiskMB
		switch {
		case want == 0:
			most = max(most, s.Resources.DiskMB)
		case first < 0:
			first = i
		case want != steps[first].asked.DiskMB:
			f.add(fmt.Sprintf("body.plan.steps[%d].resources.disk_mb", i), want,
				"the step shares the run's workspace with %q, which asks for %d: ask for the same, or give one of them a workspace of its own (workspace: step)", steps[first].Name, steps[first].asked.DiskMB)
		}
	}
	if first >= 0 {
		most = steps[first].asked.DiskMB
	}
	for i := range steps {
		if steps[i].Shares() {
			steps[i].Resources.DiskMB = most
		}
	}
}

// Shares reports whether the step works in the workspace that its run keeps on
// a worker's host.
func (s Step) Shares() bool { return s.OnHost && s.Workspace == step.WorkspaceRun }

func (f *faults) err() error {
	first := f.list[0]
	return &step.Error{Kind: step.KindInvalid, Message: first.Location + ": " + first.Message, Fields: f.list}
}

type compiler struct {
	*faults
	handlers   *handler.Set
	offers     *offers
	presets    Presets
	profiles   profile.Set
	priority   int             // the plan's
	everywhere named           // regions of the steps that name none
	before     json.RawMessage // the inputs that edited ones refer to; nil = none
}

func (c compiler) one(ctx context.Context, at string, in wire.PlanStep) (Step, []string) {
	out := Step{
		Name: in.Name, Tool: in.Tool, GraceMS: graceMS,
		OnOutput: in.OnOutput, Workspace: in.Workspace,
	}
	if in.Name == "" || len(in.Name) > maxName || !oneLine(in.Name) {
		c.add(at+".name", in.Name, "must be one line of 1 to %d bytes", maxName)
	}
	own := c.split(at, &in)
	out.Spec = in
	out.Spec.Inputs = nil
	c.policy(at, &in, &out)
	h, known := c.handlers.Find(in.Tool)
	if !known {
		c.add(at+".tool", in.Tool, "is not a known tool")
		return out, in.DependsOn
	}
	info := h.Info()
	out.Reads = h.Reads()
	out.Handler = h.Name()
	c.drivers(ctx, at, in, h, &out)
	c.place(at, in, &out)
	for _, d := range out.Drivers {
		out.Image = c.image(at, in.Image, d.Name)
	}
	for _, b := range own.fill(h, c.before) {
		c.add(at+"."+b.Location, b.Value, "%s", b.Message)
	}
	out.Inputs = own.all
	out.Redacted = redacted(h, own.all)
	out.InputsHash = inputsHash(own.all, in, own.hasPolicy)
	rendered, bad := h.Render(in.Tool, own.plain, in.EnvAllowed)
	for _, b := range bad {
		c.add(at+"."+b.Location, b.Value, "%s", b.Message)
	}
	out.Command, out.Shown = rendered.Command, strings.ReplaceAll(rendered.Shown, "\x00", "")
	out.asked = asked{c.resources(at, in.Resources).Merge(c.size(at, in.Profile)), c.timeout(at, in.TimeoutMS, rendered.TimeoutMS)}
	out.Resources, out.TimeoutMS = out.asked.Merge(info.Resources), cmp.Or(out.asked.timeoutMS, info.TimeoutMS)
	if out.Workspace == "" {
		out.Workspace = own.workspace
	}
	c.modes(at, in, &out)
	c.network(at, in, &out)
	c.isolation(ctx, at, in, &out)
	out.Artifacts = c.artifacts(at, in.Artifacts)
	c.retry(at, in, info, &out)
	c.turn(at, in, &out)
	c.choices(at, out)
	return out, in.DependsOn
}

// image checks what can be checked without the driver, which knows the
// policy of its host.
func (c compiler) image(at, name, driver string) string {
	switch {
	case name == "":
	case driver == "local":
		c.add(at+".image", name, "the driver local has no images to choose from: leave it out, or choose a driver that has")
	case len(name) > maxImage || !oneLine(name) || strings.ContainsAny(name, " \t"):
		c.add(at+".image", name, "must be an image's name of 1 to %d bytes", maxImage)
	}
	return name
}

// size is what a profile stands for.
func (c compiler) size(at, name string) step.Resources {
	r, known := c.profiles[name]
	if name != "" && !known {
		c.add(at+".profile", name, "is none of %s", c.profiles.Names())
	}
	return r
}

func (c compiler) resources(at string, r *step.Resources) step.Resources {
	if r == nil {
		return step.Resources{}
	}
	at += ".resources"
	if r.CPU < 0 || r.CPU > 1024 || r.CPU > 0 && r.CPU < step.MinCPU {
		c.add(at+".cpu", r.CPU, "must be %v to 1024 cores", step.MinCPU)
	}
	for _, limit := range []struct {
		name       string
		value, max int64
	}{
		{"memory_mb", r.MemoryMB, 16 << 20}, {"pids", r.Pids, 1 << 22}, {"io_mb_s", r.IOMBs, 1 << 20}, {"output_kb", r.OutputKB, 16 << 20},
	} {
		if limit.value < 0 || limit.value > limit.max {
			c.add(at+"."+limit.name, limit.value, "must be 1 to %d", limit.max)
		}
	}
	if r.DiskMB < 0 || r.DiskMB > 0 && r.DiskMB < step.MinDiskMB || r.DiskMB > maxDiskMB {
		c.add(at+".disk_mb", r.DiskMB, "must be %d to %d", step.MinDiskMB, maxDiskMB)
	}
	return *r
}

// timeout is what the step asks for, 0 = nothing.
func (c compiler) timeout(at string, own, inputs int64) int64 {
	for _, t := range []struct {
		where string
		ms    int64
	}{{".timeout", own}, {".inputs.timeout", inputs}} {
		if t.ms < 0 || t.ms > maxTimeoutMS {
			c.add(at+t.where, t.ms, "must be 1 to %d milliseconds", int64(maxTimeoutMS))
		}
		if t.ms > 0 {
			return t.ms
		}
	}
	return 0
}

func (c compiler) modes(at string, in wire.PlanStep, out *Step) {
	switch out.OnOutput {
	case "":
		out.OnOutput = step.OutputTruncate
	case step.OutputTruncate, step.OutputKill:
	default:
		c.add(at+".on_output_limit", string(in.OnOutput), "must be truncate or kill")
	}
	switch out.Workspace {
	case "":
		out.Workspace = step.WorkspaceRun
	case step.WorkspaceRun, step.WorkspaceStep:
	default:
		c.add(at+".workspace", string(out.Workspace), "must be run or step")
	}
}

func (c compiler) artifacts(at string, list []string) []string {
	if len(list) > maxArtifacts {
		c.add(at+".artifacts", len(list), "at most %d", maxArtifacts)
		return nil
	}
	out := make([]string, 0, len(list))
	for i, name := range list {
		full, ok := handler.InWorkspace(name)
		rel := strings.TrimPrefix(full, handler.Workspace+"/")
		switch {
		case !ok || full == handler.Workspace || len(name) > maxPath || !oneLine(name):
			c.add(fmt.Sprintf("%s.artifacts[%d]", at, i), name, "must be a path below the workspace")
		case slices.Contains(out, rel):
			c.add(fmt.Sprintf("%s.artifacts[%d]", at, i), name, "is there twice")
		default:
			out = append(out, path.Clean(rel))
		}
	}
	return out
}

func (c compiler) retry(at string, in wire.PlanStep, info wire.HandlerInfo, out *Step) {
	if in.Retry != nil {
		for _, f := range retry.Check(*in.Retry) {
			c.add(at+".retry."+f.Location, f.Value, "%s", f.Message)
		}
	}
	out.Retry = retry.Over(in.Retry, info.Retry)
	out.Idempotent = info.Idempotent
	if in.Idempotent != nil {
		out.Idempotent = *in.Idempotent
	}
}

// Budget is how many retries a plan's run has in all.
func Budget(p wire.Plan) int {
	if p.RetryBudget != nil {
		return *p.RetryBudget
	}
	return max(wire.LeastRetryBudget, len(p.Steps))
}

func oneLine(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func printable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }
