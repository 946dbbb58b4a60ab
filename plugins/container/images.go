package container

import (
	"context"
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

// cacheFile is where a state folder remembers the images that were pulled for
// it; no sandbox's id begins with a dot.
const cacheFile = ".images.json"

// cached are the images that this driver has pulled, by id, and when each was
// last used.
type cached map[string]time.Time

func readCache(stateDir string) (cached, error) {
	data, err := os.ReadFile(filepath.Join(stateDir, cacheFile))
	if errors.Is(err, fs.ErrNotExist) {
		return cached{}, nil
	}
	if err != nil {
		return nil, err
	}
	c := cached{}
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, step.Errorf(step.KindInternal, "%s: %w", cacheFile, err)
	}
	return c, nil
}

func (c cached) write(stateDir string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	part := filepath.Join(stateDir, cacheFile+".part")
	if err := os.WriteFile(part, data, 0o600); err != nil {
		return err
	}
	return os.Rename(part, filepath.Join(stateDir, cacheFile))
}

// used notes that an image of ours is in use; pulled makes it ours. Only a
// driver with a bound keeps the account.
func (d *Driver) used(s *setup, id string, pulled bool) {
	if s.config.ImageCacheMB == 0 {
		return
	}
	d.images.Lock()
	defer d.images.Unlock()
	c, err := readCache(s.config.StateDir)
	if err == nil {
		if _, ours := c[id]; !ours && !pulled {
			return
		}
		c[id] = time.Now().UTC()
		err = c.write(s.config.StateDir)
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
	ours, err := readCache(s.config.StateDir)
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
	return ours.write(s.config.StateDir)
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
