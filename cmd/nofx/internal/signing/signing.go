// Package signing signs and verifies the driver plugins of a folder, as
// `nofx drivers sign` and `verify` do. No daemon and no server is needed.
package signing

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nofx-run/nofx/internal/pluginmanifest"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc/launch"
	"github.com/nofx-run/nofx/sdk/step"
)

// askTimeout bounds what one plugin takes to start and say what it is.
const askTimeout = 30 * time.Second

// Sign asks each plugin in dir what it is and writes the signed manifest.
func Sign(ctx context.Context, dir string, key ed25519.PrivateKey) ([]pluginmanifest.Plugin, error) {
	names, err := pluginmanifest.Discover(dir)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, step.Errorf(step.KindInvalid, "there is no executable %sNAME in %s, NAME being a small letter and up to 31 of a-z, 0-9 and -", pluginmanifest.Prefix, dir)
	}
	plugins := make([]pluginmanifest.Plugin, 0, len(names))
	for _, name := range names {
		p, err := ask(ctx, filepath.Join(dir, pluginmanifest.Prefix+name), name)
		if err != nil {
			return nil, fmt.Errorf("driver %s: %w", name, err)
		}
		plugins = append(plugins, p)
	}
	return plugins, pluginmanifest.Write(dir, plugins, key, time.Now())
}

// ask hashes a plugin's file and has its driver describe itself. A file that
// became another one meanwhile is not signed.
func ask(ctx context.Context, path, name string) (pluginmanifest.Plugin, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	before, filesBefore, err := hash(path)
	if err != nil {
		return pluginmanifest.Plugin{}, err
	}
	process, err := launch.Start(ctx, launch.Options{Path: path})
	if err != nil {
		return pluginmanifest.Plugin{}, err
	}
	about, err := process.Driver().Describe(ctx)
	process.Stop()
	if err != nil {
		return pluginmanifest.Plugin{}, fmt.Errorf("describe: %w", err)
	}
	if about.Name != name {
		return pluginmanifest.Plugin{}, step.Errorf(step.KindInvalid, "it says that it is %.40q", about.Name)
	}
	after, filesAfter, err := hash(path)
	switch {
	case err != nil:
		return pluginmanifest.Plugin{}, err
	case before != after:
		return pluginmanifest.Plugin{}, errors.New("its file changed while it was asked")
	case filesBefore != filesAfter:
		return pluginmanifest.Plugin{}, errors.New("the files beside it changed while it was asked; it must not write there, such as compiled modules")
	}
	return pluginmanifest.Plugin{
		Name: name, Version: about.Version, SHA256: hex.EncodeToString(before[:]), FilesSHA256: filesBefore, ProtocolVersions: about.ProtocolVersions,
	}, nil
}

// hash is that of a plugin's file, and of the files beside one that is interpreted.
func hash(path string) (sum [sha256.Size]byte, files string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, "", err
	}
	h.Sum(sum[:0])
	if pluginmanifest.Interpreted(f) {
		files, err = pluginmanifest.SumFiles(path)
	}
	return sum, files, err
}

// Report is what Verify found.
type Report struct {
	Valid   bool      `json:"valid"`
	KeyID   string    `json:"key_id"`
	Problem string    `json:"problem,omitempty"` // with the manifest as a whole
	Plugins []Verdict `json:"plugins"`
}

// Verdict is one plugin of the folder or of its manifest. Status is "ok",
// "changed", "files_changed" (those beside an interpreted one), "unsigned" or
// "absent".
type Verdict struct {
	Name    string `json:"name"`
	Version string `json:"version"` // that the manifest tells
	SHA256  string `json:"sha256"`  // of the file as it is
	Status  string `json:"status"`
}

// Verify compares the plugins in dir with its manifest.
func Verify(dir string, key pluginmanifest.PublicKey) (Report, error) {
	names, err := pluginmanifest.Discover(dir)
	if err != nil {
		return Report{}, err
	}
	report := Report{KeyID: key.ID(), Plugins: []Verdict{}}
	manifest, err := pluginmanifest.Read(dir, key)
	if err != nil {
		report.Problem = err.Error()
	}
	report.Valid = err == nil
	for _, name := range names {
		v := Verdict{Name: name}
		sum, files, err := hash(filepath.Join(dir, pluginmanifest.Prefix+name))
		if err != nil {
			return report, err
		}
		v.SHA256 = hex.EncodeToString(sum[:])
		switch p, err := manifest.Check(name, sum, files); {
		case err == nil:
			v.Version, v.Status = p.Version, "ok"
		case errors.Is(err, pluginmanifest.ErrChanged):
			v.Status = "changed"
		case errors.Is(err, pluginmanifest.ErrFiles):
			v.Status = "files_changed"
		default:
			v.Status = "unsigned"
		}
		report.Plugins = append(report.Plugins, v)
	}
	for _, p := range manifest.Plugins {
		if !slices.Contains(names, p.Name) {
			report.Plugins = append(report.Plugins, Verdict{Name: p.Name, Version: p.Version, Status: "absent"})
		}
	}
	slices.SortFunc(report.Plugins, func(a, b Verdict) int { return strings.Compare(a.Name, b.Name) })
	report.Valid = report.Valid && !slices.ContainsFunc(report.Plugins, func(v Verdict) bool { return v.Status != "ok" })
	return report, nil
}
