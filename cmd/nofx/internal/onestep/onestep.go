// Package onestep makes a plan of one step from what people type after
// `nofx exec`.
package onestep

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// StepName is the name of the plan's only step.
const StepName = "exec"

// MaxFile bounds one --file and MaxStdin the standard input, in bytes; the API
// bounds the whole request.
const (
	MaxFile  = 1 << 20
	MaxStdin = 1 << 20
)

// Options are the flags of `nofx exec`, as typed.
type Options struct {
	Driver    string
	Regions   []string // in order; nil = anywhere
	Image     string
	Isolation string // the level that it demands, "" = the driver's default
	Tool      string // bash, exec, python or node
	Profile   string
	CPU       string
	Memory    string
	Pids      string
	Disk      string
	IO        string
	Output    string
	Timeout   time.Duration
	Network   string
	Allow     []string // with network allow: rules and presets
	Env       []string // K=V
	Files     []string // local:remote
	Artifacts []string // paths below the workspace
	Input     bool     // Stdin is given to the command
	Stdin     []byte
	Command   []string
}

// Plan checks the options and makes the plan. Errors are of kind invalid, or
// unsupported for what NOFX does not enforce yet.
func Plan(o Options) (wire.Plan, error) {
	if len(o.Command) == 0 {
		return wire.Plan{}, step.Errorf(step.KindInvalid, "no command: nofx exec [flags] -- COMMAND...")
	}
	for i, word := range o.Command {
		if !utf8.ValidString(word) { // JSON would change it in silence
			return wire.Plan{}, step.Errorf(step.KindInvalid, "argument %d is not UTF-8 text: bring such bytes in with --file", i+1)
		}
	}
	resources, err := o.resources()
	if err != nil {
		return wire.Plan{}, err
	}
	inputs, err := o.inputs()
	if err != nil {
		return wire.Plan{}, err
	}
	if err := o.checkNetwork(); err != nil {
		return wire.Plan{}, err
	}
	if !slices.Contains([]string{"", "namespace", "gvisor"}, o.Isolation) {
		return wire.Plan{}, step.Errorf(step.KindInvalid, "--isolation %.40s: namespace or gvisor", o.Isolation)
	}
	if o.Timeout <= 0 || o.Timeout%time.Millisecond != 0 {
		return wire.Plan{}, step.Errorf(step.KindInvalid, "--timeout %v: whole milliseconds, more than 0", o.Timeout)
	}
	if err := checkArtifacts(o.Artifacts); err != nil {
		return wire.Plan{}, err
	}
	var region string
	var regions []string
	if o.Regions != nil {
		if region, regions, err = Regions(o.Regions); err != nil {
			return wire.Plan{}, err
		}
	}
	raw, err := encode(inputs)
	if err != nil {
		return wire.Plan{}, err
	}
	return wire.Plan{
		Goal: goal(o.Command),
		Steps: []wire.PlanStep{{
			Name:      StepName,
			Tool:      o.Tool,
			Inputs:    raw,
			Driver:    o.Driver,
			Region:    region,
			Regions:   regions,
			Image:     o.Image,
			Isolation: o.Isolation,
			Profile:   o.Profile,
			Resources: resources,
			TimeoutMS: o.Timeout.Milliseconds(),
			Network:   step.Network(o.Network), NetworkAllow: o.Allow,
			Artifacts: o.Artifacts,
		}},
	}, nil
}

// checkNetwork refuses what the server would; names of presets are the
// server's to know.
func (o Options) checkNetwork() error {
	switch step.Network(o.Network) {
	case step.NetworkNone, step.NetworkOpen:
		if len(o.Allow) > 0 {
			return step.Errorf(step.KindInvalid, "--allow goes with --network allow")
		}
	case step.NetworkAllow:
		if len(o.Allow) == 0 {
			return step.Errorf(step.KindInvalid, "--network allow needs --allow HOST[:PORTS] or --allow PRESET, once or more")
		}
	default:
		return step.Errorf(step.KindInvalid, "--network %s: none, allow or open", o.Network)
	}
	return nil
}

func (o Options) resources() (*step.Resources, error) {
	var r step.Resources
	var err error
	if o.Disk != "" {
		if r.DiskMB, err = parseSize("--disk", o.Disk, 1<<20); err != nil {
			return nil, err
		}
	}
	if o.CPU != "" {
		if r.CPU, err = parseCPU(o.CPU); err != nil {
			return nil, err
		}
	}
	if o.Memory != "" {
		if r.MemoryMB, err = parseSize("--memory", o.Memory, 1<<20); err != nil {
			return nil, err
		}
	}
	if o.IO != "" {
		if r.IOMBs, err = parseSize("--io", o.IO, 1<<20); err != nil {
			return nil, err
		}
	}
	if o.Output != "" {
		if r.OutputKB, err = parseSize("--output", o.Output, 1<<10); err != nil {
			return nil, err
		}
	}
	if o.Pids != "" {
		if r.Pids, err = strconv.ParseInt(o.Pids, 10, 64); err != nil || r.Pids <= 0 {
			return nil, step.Errorf(step.KindInvalid, "--pids %s: a whole number, more than 0", o.Pids)
		}
	}
	if r == (step.Resources{}) {
		return nil, nil
	}
	return &r, nil
}

// inputs are what the tool's handler takes.
func (o Options) inputs() (map[string]any, error) {
	in := map[string]any{}
	switch o.Tool {
	case "exec":
		in["argv"] = o.Command
	case "bash":
		in["command"] = shell(o.Command)
	case "python", "node":
		if len(o.Command) > 1 {
			return nil, step.Errorf(step.KindInvalid, "--tool %s takes one argument, the code, not %d", o.Tool, len(o.Command))
		}
		in["code"] = o.Command[0]
	default:
		return nil, step.Errorf(step.KindInvalid, "--tool %s: bash, exec, python or node", o.Tool)
	}
	if o.Input {
		switch {
		case o.Tool != "exec":
			return nil, step.Errorf(step.KindInvalid, "-i: --tool %s has its code as standard input, or none: only --tool exec takes yours", o.Tool)
		case len(o.Stdin) > MaxStdin:
			return nil, step.Errorf(step.KindTooLarge, "-i: the standard input has more than %d bytes: bring it in with --file, in pieces", MaxStdin)
		case !utf8.Valid(o.Stdin):
			return nil, step.Errorf(step.KindInvalid, "-i: the standard input is not UTF-8 text: bring such bytes in with --file")
		}
		in["stdin"] = string(o.Stdin)
	}
	if len(o.Env) > 0 {
		env := map[string]string{}
		for _, kv := range o.Env {
			k, v, ok := strings.Cut(kv, "=")
			if !ok || k == "" {
				return nil, step.Errorf(step.KindInvalid, "--env %s: K=V", k)
			}
			if !utf8.ValidString(kv) {
				return nil, step.Errorf(step.KindInvalid, "--env %s: not UTF-8 text: bring such bytes in with --file", strings.ToValidUTF8(k, "?"))
			}
			env[k] = v
		}
		in["env"] = env
	}
	if len(o.Files) > 0 {
		files, err := readFiles(o.Files)
		if err != nil {
			return nil, err
		}
		in["files"] = files
	}
	return in, nil
}

// inputFile is one entry of a handler's files input. The content is base64.
type inputFile struct {
	Path    string `json:"path"`
	Content []byte `json:"content_base64"`
	Mode    int    `json:"mode,omitempty"` // permission bits; 0 = the handler's default
}

func readFiles(specs []string) ([]inputFile, error) {
	var out []inputFile
	for _, spec := range specs {
		i := strings.LastIndexByte(spec, ':')
		if i <= 0 || i == len(spec)-1 {
			return nil, step.Errorf(step.KindInvalid, "--file %s: local:remote", spec)
		}
		local, remote := spec[:i], strings.TrimPrefix(spec[i+1:], "/workspace/")
		if strings.HasSuffix(remote, "/") {
			return nil, step.Errorf(step.KindInvalid, "--file %s: the remote path is that of a folder: name the file in it, too", spec)
		}
		if remote = path.Clean(remote); !fs.ValidPath(remote) || remote == "." {
			return nil, step.Errorf(step.KindInvalid, "--file %s: the remote path must lie below the workspace", spec)
		}
		if slices.ContainsFunc(out, func(f inputFile) bool { return f.Path == remote }) {
			return nil, step.Errorf(step.KindInvalid, "--file %s: another file has the same remote path", spec)
		}
		info, err := os.Stat(local)
		if err != nil {
			return nil, step.Errorf(step.KindInvalid, "--file %s: %w", spec, err)
		}
		if !info.Mode().IsRegular() {
			return nil, step.Errorf(step.KindInvalid, "--file %s: not a regular file", spec)
		}
		if info.Size() > MaxFile {
			return nil, step.Errorf(step.KindTooLarge, "--file %s: %d bytes, at most %d", spec, info.Size(), MaxFile)
		}
		body, err := os.ReadFile(local)
		if err != nil {
			return nil, step.Errorf(step.KindInvalid, "--file %s: %w", spec, err)
		}
		f := inputFile{Path: remote, Content: body}
		if info.Mode()&0o111 != 0 {
			f.Mode = 0o755
		}
		out = append(out, f)
	}
	return out, nil
}

// checkArtifacts makes sure that each can be kept under its base name here.
func checkArtifacts(paths []string) error {
	var names []string
	for _, p := range paths {
		name := path.Base(p)
		if !utf8.ValidString(p) { // JSON would change it in silence
			return step.Errorf(step.KindInvalid, "--artifact %s: is not UTF-8 text", strings.ToValidUTF8(p, "?"))
		}
		if name == "." || name == "/" || name == ".." {
			return step.Errorf(step.KindInvalid, "--artifact %s: neither a file nor a folder below the workspace", p)
		}
		if slices.Contains(names, name) {
			return step.Errorf(step.KindInvalid, "--artifact %s: another artifact has the same base name", p)
		}
		names = append(names, name)
	}
	return nil
}

// shell makes a script of the command: one argument is the script itself,
// several are one command with each argument quoted.
func shell(argv []string) string {
	if len(argv) == 1 {
		return argv[0]
	}
	quoted := make([]string, len(argv))
	for i, a := range argv {
		quoted[i] = quote(a)
	}
	return strings.Join(quoted, " ")
}

func quote(s string) string {
	safe := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@%", r)
	}) < 0
	if safe {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func goal(argv []string) string {
	const most = 80
	text := []rune("exec: " + strings.Join(strings.Fields(strings.Join(argv, " ")), " "))
	if len(text) > most {
		text = append(text[:most-1], '…')
	}
	return string(text)
}

func encode(inputs map[string]any) (json.RawMessage, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(inputs); err != nil {
		return nil, fmt.Errorf("inputs: %w", err)
	}
	return json.RawMessage(strings.TrimSpace(b.String())), nil
}
