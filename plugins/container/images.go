package container

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/nofx-run/nofx/sdk/step"
)

// cacheFile is where a state folder remembers the images that were pulled for it
// to an engine: another's may be the same and not ours. No sandbox's id begins with
// a dot.
func cacheFile(engine string) string {
	sum := sha256.Sum256([]byte(engine))
	return ".images-" + hex.EncodeToString(sum[:8]) + ".json"
}

// everyCache is the file of versions that knew of one engine only.
const everyCache = ".images.json"

// cacheOf is the path of a setup's; what an earlier version wrote becomes it.
func cacheOf(s *setup) (string, error) {
	path, old := filepath.Join(s.config.StateDir, cacheFile(s.id())), filepath.Join(s.config.StateDir, everyCache)
	if _, err := os.Lstat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	if err := os.Rename(old, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return path, nil
}

// cached are the images that this driver has pulled, by id, and when each was
// last used.
type cached map[string]time.Time

func readCache(path string) (cached, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return cached{}, nil
	}
	if err != nil {
		return nil, err
	}
	c := cached{}
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, step.Errorf(step.KindInternal, "%s: %w", filepath.Base(path), err)
	}
	return c, nil
}

func (c cached) write(path string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".part", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".part", path)
}

// used notes that an image of ours is in use; pulled makes it ours. Only a
// driver with a bound keeps the account.
func (d *Driver) used(s *setup, id string, pulled bool) {
	if s.config.ImageCacheMB == 0 {
		return
	}
	d.images.Lock()
	defer d.images.Unlock()
	path, err := cacheOf(s)
	var c cached
	if err == nil {
		c, err = readCache(path)
	}
	if err == nil {
		if _, ours := c[id]; !ours && !pulled {
			return
		}
		c[id] = time.Now().UTC()
		err = c.write(path)
	}
	if err != nil {
		d.log.Warn("the account of pulled images cannot be kept", "err", err)
	}
}

// trimImages removes images that this driver has pulled, the one that was not
// used for the longest first, until they fit the bound. One that a container
// uses stays.
func (d *Driver) trimImages(ctx context.Context, s *setup) error {
	if s.config.ImageCacheMB == 0 {
		return nil
	}
	d.images.Lock()
	defer d.images.Unlock()
	if _, err := s.ready(ctx); err != nil {
		return err
	}
	path, err := cacheOf(s)
	if err != nil {
		return err
	}
	ours, err := readCache(path)
	if err != nil || len(ours) == 0 {
		return err
	}
	sizes, err := s.engine.imageSizes(ctx)
	if err != nil {
		return err
	}
	total := int64(0)
	var ids []string
	for id := range ours {
		size, there := sizes[id]
		if !there {
			delete(ours, id)
			continue
		}
		total += size
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { return ours[a].Compare(ours[b]) })
	for _, id := range ids {
		if total <= s.config.ImageCacheMB<<20 {
			break
		}
		gone, err := s.engine.removeImage(ctx, id)
		if err != nil {
			return err
		}
		if gone {
			d.log.Info("image removed: the cache is full", "image", id, "bytes", sizes[id])
			total -= sizes[id]
			delete(ours, id)
		}
	}
	return ours.write(path)
}

func (e *engine) imageSizes(ctx context.Context) (map[string]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := e.api.ImageList(ctx, client.ImageListOptions{})
	if err != nil {
		return nil, wrong("images", err)
	}
	sizes := map[string]int64{}
	for _, i := range r.Items {
		sizes[i.ID] = i.Size
	}
	return sizes, nil
}

// removeImage reports false for one that a container uses.
func (e *engine) removeImage(ctx context.Context, id string) (bool, error) {
	ctx, cancel := lasting(ctx, workTimeout)
	defer cancel()
	_, err := e.api.ImageRemove(ctx, id, client.ImageRemoveOptions{PruneChildren: true})
	switch {
	case err == nil, cerrdefs.IsNotFound(err):
		return true, nil
	case cerrdefs.IsConflict(err):
		return false, nil
	}
	return false, wrong("remove image", err)
}
