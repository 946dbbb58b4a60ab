package pluginmanifest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/google/renameio/v2"

	"github.com/nofx-run/nofx/sdk/step"
)

// Names in a folder of plugins.
const (
	Prefix        = "nofx-driver-" // begins each plugin's file name
	Name          = "nofx-drivers.json"
	SignatureName = Name + ".minisig"
)

// Bounds of what is read.
const (
	maxFile    = 1 << 20 // bytes, of the manifest and of its signature
	maxPlugins = 1000
)

// format is the manifest's version; another one is refused.
const format = 1

// Reasons for which a folder's plugins are not vouched for. Errors of this
// package wrap one of them.
var (
	ErrNoManifest   = errors.New("there is no signed manifest")
	ErrSignature    = errors.New("the manifest's signature is not valid")
	ErrBadManifest  = errors.New("the manifest cannot be read")
	ErrMissingEntry = errors.New("the manifest does not name it")
	ErrChanged      = errors.New("it is not the file that the manifest vouches for")
	ErrFiles        = errors.New("the files beside it are not those that the manifest vouches for")
)

// Plugin is one file that a manifest vouches for.
type Plugin struct {
	Name             string `json:"name"` // of the driver; its file is Prefix+Name
	Version          string `json:"version"`
	SHA256           string `json:"sha256"`                 // of the file, hex
	FilesSHA256      string `json:"files_sha256,omitempty"` // SumFiles, of one that is interpreted
	ProtocolVersions []int  `json:"protocol_versions"`
}

// Manifest is the list, sorted by name.
type Manifest struct {
	Format  int      `json:"format"`
	Plugins []Plugin `json:"plugins"`
}

// Read reads the manifest of a folder. Nothing of it is looked at before the
// signature has been found good.
func Read(dir string, key PublicKey) (Manifest, error) {
	data, err := readSmall(filepath.Join(dir, Name))
	if err != nil {
		return Manifest{}, missing(err)
	}
	sig, err := readSmall(filepath.Join(dir, SignatureName))
	if err != nil {
		return Manifest{}, missing(err)
	}
	if err := key.verify(data, sig); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return parse(data)
}

func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNoManifest, err)
	}
	return fmt.Errorf("%w: %w", ErrBadManifest, err)
}

func parse(data []byte) (Manifest, error) {
	var m Manifest
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrBadManifest, err)
	}
	if m.Format != format {
		return Manifest{}, fmt.Errorf("%w: its format is %d, %d is known", ErrBadManifest, m.Format, format)
	}
	if len(m.Plugins) > maxPlugins {
		return Manifest{}, fmt.Errorf("%w: it names more than %d plugins", ErrBadManifest, maxPlugins)
	}
	seen := map[string]bool{}
	for _, p := range m.Plugins {
		if !ValidName(p.Name) || seen[p.Name] {
			return Manifest{}, fmt.Errorf("%w: %.40q is no name of a driver or is there twice", ErrBadManifest, p.Name)
		}
		seen[p.Name] = true
	}
	return m, nil
}

// Check says whether the manifest vouches for a driver's file with this hash, and
// for the files beside it; files is "" for one that is not interpreted.
func (m Manifest) Check(name string, sum [32]byte, files string) (Plugin, error) {
	i := slices.IndexFunc(m.Plugins, func(p Plugin) bool { return p.Name == name })
	if i < 0 {
		return Plugin{}, ErrMissingEntry
	}
	if m.Plugins[i].SHA256 != hex.EncodeToString(sum[:]) {
		return Plugin{}, ErrChanged
	}
	if m.Plugins[i].FilesSHA256 != files {
		return Plugin{}, ErrFiles
	}
	return m.Plugins[i], nil
}

// Write signs a manifest of these plugins and puts both files into dir. Each
// of the two is replaced as a whole, the signature last: a reader in between
// finds a signature that is not good.
func Write(dir string, plugins []Plugin, key ed25519.PrivateKey, now time.Time) error {
	slices.SortFunc(plugins, func(a, b Plugin) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	data, err := json.MarshalIndent(Manifest{Format: format, Plugins: plugins}, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if len(data) > maxFile || len(plugins) > maxPlugins {
		return step.Errorf(step.KindTooLarge, "the manifest would have %d plugins and %d bytes", len(plugins), len(data))
	}
	if err := renameio.WriteFile(filepath.Join(dir, Name), data, 0o644, renameio.IgnoreUmask()); err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, SignatureName), sign(data, key, now), 0o644, renameio.IgnoreUmask())
}

// ValidName reports whether a driver can have this name.
func ValidName(name string) bool {
	return regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`).MatchString(name)
}

// Discover gives the names of the drivers whose plugins are in dir, sorted.
func Discover(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, step.Errorf(step.KindInvalid, "plugin folder: %w", err)
	}
	var names []string
	for _, e := range entries {
		if len(e.Name()) <= len(Prefix) || e.Name()[:len(Prefix)] != Prefix || !ValidName(e.Name()[len(Prefix):]) {
			continue
		}
		if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			names = append(names, e.Name()[len(Prefix):])
		}
	}
	return names, nil
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return data, err
}
