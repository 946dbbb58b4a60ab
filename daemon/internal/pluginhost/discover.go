package pluginhost

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// prefix begins the name of each plugin's executable.
const prefix = "nofx-driver-"

// The manifest, in the form of sha256sum, and its ed25519 signature in base64.
const (
	manifestName = "nofx-drivers.sha256"
	manifestMax  = 1 << 20
)

// discover gives the names of the drivers whose plugins are in dir.
func discover(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, step.Errorf(step.KindInvalid, "plugin folder: %w", err)
	}
	valid := regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	var names []string
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok || !valid.MatchString(name) {
			continue
		}
		if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			names = append(names, name)
		}
	}
	return names, nil
}

// executable is a plugin's file, open, and its hash.
type executable struct {
	path string
	file *os.File
	sum  [sha256.Size]byte
	elf  bool
	id   fileID
}

// fileID tells one state of a file from another.
type fileID struct {
	dev, ino    uint64
	size, mtime int64
}

func idOf(path string) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fileID{}, err
	}
	return fileID{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim.Nano()}, nil
}

// openExecutable reads and checks a plugin's file. The caller closes it.
func openExecutable(cfg Config, name string) (_ *executable, err error) {
	x := &executable{path: filepath.Join(cfg.Dir, prefix+name)}
	if x.id, err = idOf(x.path); err != nil {
		return nil, err
	}
	if x.file, err = os.Open(x.path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = x.file.Close()
		}
	}()
	if err := checkOwner(x.file, cfg.AllowUnsigned); err != nil {
		return nil, err
	}
	if !cfg.AllowUnsigned {
		folder, err := os.Open(cfg.Dir)
		if err != nil {
			return nil, err
		}
		defer folder.Close()
		if err := checkOwner(folder, false); err != nil {
			return nil, err
		}
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, x.file); err != nil {
		return nil, err
	}
	hash.Sum(x.sum[:0])
	magic := make([]byte, 4)
	if _, err := x.file.ReadAt(magic, 0); err == nil {
		x.elf = string(magic) == "\x7fELF"
	}
	if cfg.AllowUnsigned {
		return x, nil
	}
	return x, checkManifest(cfg.Dir, cfg.ManifestKey, prefix+name, x.sum)
}

// checkOwner refuses what somebody else could replace.
func checkOwner(f *os.File, lenient bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&0o002 != 0 {
		return permanent("%s can be written by everybody", f.Name())
	}
	if lenient {
		return nil
	}
	if st.Mode&0o020 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return permanent("%s does not belong to root alone", f.Name())
	}
	return nil
}

// checkManifest checks that the signed manifest in dir names this file with
// this hash.
func checkManifest(dir string, key ed25519.PublicKey, name string, sum [sha256.Size]byte) error {
	manifest, err := readSmall(filepath.Join(dir, manifestName))
	if err != nil {
		return permanent("the plugins' manifest: %v", err)
	}
	coded, err := readSmall(filepath.Join(dir, manifestName+".sig"))
	if err != nil {
		return permanent("the manifest's signature: %v", err)
	}
	sig, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(coded)))
	if err != nil || !ed25519.Verify(key, manifest, sig) {
		return permanent("the manifest's signature is not valid")
	}
	lines := bufio.NewScanner(bytes.NewReader(manifest))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 2 && strings.TrimPrefix(fields[1], "*") == name {
			if fields[0] != hex.EncodeToString(sum[:]) {
				return permanent("%s is not the file that the manifest vouches for", name)
			}
			return nil
		}
	}
	return permanent("the manifest does not name %s", name)
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, manifestMax))
}

// permanentError is a fault that another try does not mend.
type permanentError struct{ error }

func permanent(format string, args ...any) error {
	return permanentError{step.Errorf(step.KindInvalid, format, args...)}
}

func isPermanent(err error) bool {
	var p permanentError
	return errors.As(err, &p)
}
