package worker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// prepare puts the command's files into the sandbox and has it known that the
// step begins.
func (a *attempt) prepare(ctx context.Context, d driver.Driver, h driver.Handle, about driver.Description) error {
	c := a.lease.Command
	if len(c.Files) > 0 {
		archive, err := files(c.Files)
		if err != nil {
			return err
		}
		if err := d.CopyIn(ctx, h, workDir, archive); err != nil {
			return a.noRoom(fmt.Errorf("files: %w", err))
		}
	}
	if !a.journal.Position().Started {
		if err := a.append(wire.Record{Type: wire.RecordStarted, Started: &wire.StartedRecord{
			Driver: about.Name, DriverVersion: about.Version, SandboxID: h.ID,
		}}); err != nil {
			return err
		}
	}
	if a.lease.Network == step.NetworkNone {
		return nil
	}
	return a.announced(ctx)
}

// announced waits until the API has the record that the step begins. What can
// touch the outside begins only then: when this host falls silent before, the API
// knows that nothing was done, and may have it tried anew.
func (a *attempt) announced(ctx context.Context) error {
	n := a.journal.Position().Last
	poke(a.w.ended) // nothing else to be shipped with it is waited for
	for a.journal.Position().Acked < n {
		select {
		case <-a.shipped:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// start runs the command.
func (a *attempt) start(ctx context.Context, d driver.Driver, h driver.Handle, sink driver.Sink) error {
	c := a.lease.Command
	env := make([]string, 0, len(c.Env))
	for _, k := range slices.Sorted(maps.Keys(c.Env)) {
		env = append(env, k+"="+c.Env[k])
	}
	cwd := c.Cwd
	if cwd == "" {
		cwd = workDir
	}
	if order := a.cancelled(); order != nil {
		return errors.New("cancelled before it began")
	}
	if why := a.overDisk(); why != "" {
		return errors.New(why)
	}
	return d.Exec(ctx, h, driver.ExecSpec{
		ID: mainExec, Argv: c.Argv, Env: env, Cwd: cwd, Stdin: c.Stdin,
		Timeout: ms(a.lease.TimeoutMS), Grace: ms(a.lease.GraceMS),
		OutputLimit: a.lease.Resources.OutputKB << 10, OnOutput: a.lease.OnOutput,
	}, sink)
}

// files packs small files into an archive, with the folders above them.
func files(list []wire.CommandFile) (*bytes.Buffer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{".": true}
	for _, f := range list {
		name := path.Clean(f.Path)
		if path.IsAbs(name) || name == "." || name == ".." || strings.HasPrefix(name, "../") {
			return nil, step.Errorf(step.KindInvalid, "file %.200q is not below the workspace", f.Path)
		}
		var above []string
		for dir := path.Dir(name); !made[dir]; dir = path.Dir(dir) {
			made[dir] = true
			above = append(above, dir)
		}
		slices.Reverse(above)
		for _, dir := range above {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
				return nil, err
			}
		}
		mode := int64(f.Mode & 0o777)
		if mode == 0 {
			mode = 0o644
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(f.Data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	return &b, w.Close()
}
