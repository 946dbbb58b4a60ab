package pluginhost

import (
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/pluginmanifest"
)

// prefix begins the name of each plugin's executable.
const prefix = pluginmanifest.Prefix

// executable is a plugin's file, open, and its hash.
type executable struct {
	path string
	file *os.File
	sum  [sha256.Size]byte
	elf  bool

	files filesID // as they were before it was opened
}

// fileID tells one state of a file from another; who may change it is part of
// that, so that chmod ends a refusal.
type fileID struct {
	dev, ino    uint64
	size, mtime int64
	mode, uid   uint32
}

func idOf(path string) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fileID{}, err
	}
	return fileID{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim.Nano(), mode: st.Mode, uid: st.Uid}, nil
}

// filesID is the state of all files that decide whether a plugin may run.
type filesID struct{ plugin, manifest, signature, folder fileID }

// filesOf reads it; a file that is not there is a state as well.
func filesOf(cfg Config, name string) filesID {
	var f filesID
	f.plugin, _ = idOf(filepath.Join(cfg.Dir, prefix+name))
	if !cfg.AllowUnsigned {
		f.manifest, _ = idOf(filepath.Join(cfg.Dir, pluginmanifest.Name))
		f.signature, _ = idOf(filepath.Join(cfg.Dir, pluginmanifest.SignatureName))
		folder, _ := idOf(cfg.Dir)
		f.folder = fileID{mode: folder.mode, uid: folder.uid} // not what comes and goes in it
	}
	return f
}

// openExecutable reads and checks a plugin's file. The caller closes it.
func openExecutable(cfg Config, name string) (_ *executable, err error) {
	x := &executable{path: filepath.Join(cfg.Dir, prefix+name), files: filesOf(cfg, name)}
	if x.file, err = os.Open(x.path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = x.file.Close()
		}
	}()
	if err := checkOwner(x.file, cfg); err != nil {
		return nil, err
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
	files := ""
	if pluginmanifest.Interpreted(x.file) {
		if files, err = pluginmanifest.SumFiles(x.path); err != nil {
			return nil, err
		}
	}
	manifest, err := pluginmanifest.Read(cfg.Dir, cfg.ManifestKey)
	if err == nil {
		_, err = manifest.Check(name, x.sum, files)
	}
	if err != nil {
		return nil, manifestRefusal(name, err)
	}
	return x, nil
}

// checkOwner refuses what somebody else could replace. In development the
// folder may be anybody's, and the file his as well, but not everybody's.
func checkOwner(f *os.File, cfg Config) error {
	err := pluginmanifest.CheckOwner(f)
	if !cfg.AllowUnsigned {
		if err != nil {
			return ownerRefusal(err)
		}
		// It may be a link, and one that is interpreted is read by its path.
		if err := pluginmanifest.CheckParents(f.Name()); err != nil {
			return ownerRefusal(err)
		}
		if pluginmanifest.Interpreted(f) {
			if err := pluginmanifest.CheckBeside(f.Name()); err != nil {
				return ownerRefusal(err)
			}
		}
		// Nobody signs what it starts or reads beside it.
		return ownerRefusal(pluginmanifest.CheckFolder(cfg.Dir))
	}
	st, serr := f.Stat()
	if serr == nil && st.Mode().Perm()&0o002 != 0 {
		return ownerRefusal(err)
	}
	return serr
}
