package blob

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/nofx-run/nofx/sdk/step"
)

func nonce() uint64 { return rand.Uint64() }

func segmentPath(tenant, attempt string) (string, error) {
	if !nameForm.MatchString(tenant) || !nameForm.MatchString(attempt) || len(attempt) < 3 {
		return "", step.Errorf(step.KindInternal, "bad segment name")
	}
	return filepath.Join("output", tenant, attempt[len(attempt)-2:], attempt), nil
}

// Append writes data at offset at of an attempt's segment and returns when it
// is on the disk. What an earlier try left behind at is overwritten.
func (d *Dir) Append(tenant, attempt string, at int64, data []byte) (err error) {
	path, err := segmentPath(tenant, attempt)
	if err != nil {
		return err
	}
	if at == 0 {
		if err := d.root.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
	}
	f, err := d.root.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(data, at); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if at == 0 {
		return d.syncDir(filepath.Dir(path))
	}
	return nil
}

// Read gives n bytes from offset at of an attempt's segment.
func (d *Dir) Read(tenant, attempt string, at, n int64) (data []byte, err error) {
	path, err := segmentPath(tenant, attempt)
	if err != nil {
		return nil, err
	}
	f, err := d.root.Open(path)
	if err != nil {
		return nil, absent(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data = make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(f, at, n), data); err != nil {
		return nil, err
	}
	return data, nil
}
