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
	"github.com/distribution/reference"
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

// cached are the images that this driver has pulled, by id.
type cached map[string]kept

// kept is one of them.
type kept struct {
	Used  time.Time `json:"used"`            // last
	Names []string  `json:"names,omitempty"` // in full, that it was pulled under
}

// UnmarshalJSON also takes what an earlier version wrote, which knew no names.
func (k *kept) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, &k.Used)
	}
	type plain kept
	return json.Unmarshal(data, (*plain)(k))
}

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

// used notes that an image of ours is in use; pulled, under that name, makes it
// ours. Only a driver with a bound keeps the account.
func (d *Driver) used(s *setup, id, name string, pulled bool) {
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
		k, ours := c[id]
		if !ours && !pulled {
			return
		}
		k.Used = time.Now().UTC()
		if pulled && !slices.Contains(k.Names, name) {
			k.Names = append(k.Names, name)
		}
		c[id] = k
		err = c.write(path)
	}
	if err != nil {
		d.log.Warn("the account of pulled images cannot be kept", "err", err)
	}
}

// trimImages removes images that this driver has pulled, the one that was not
// used for the longest first, until they fit the bound. One that a container
// uses stays, and so does one that has a name of somebody else's: of that the names
// go that are ours, and it is not ours any more.
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
	there, err := s.engine.images(ctx)
	if err != nil {
		return err
	}
	total := int64(0)
	var ids []string
	for id := range ours {
		i, ok := there[id]
		if !ok {
			delete(ours, id)
			continue
		}
		total += i.size
		ids = append(ids, id)
	}
	bound := s.config.ImageCacheMB << 20
	var busy map[string]bool
	if total > bound {
		if busy, err = s.engine.imagesInUse(ctx); err != nil {
			return err
		}
	}
	slices.SortFunc(ids, func(a, b string) int { return ours[a].Used.Compare(ours[b].Used) })
	for _, id := range ids {
		if total <= bound {
			break
		}
		if busy[id] {
			continue
		}
		names, foreign := ours[id].split(there[id].refs)
		gone, err := s.engine.removeImage(ctx, id, names, !foreign)
		if err != nil {
			return errors.Join(err, ours.write(path))
		}
		if gone || foreign {
			d.log.Info("image removed: the cache is full", "image", id, "bytes", there[id].size, "named_by_others", foreign)
			total -= there[id].size
			delete(ours, id)
		}
	}
	return ours.write(path)
}

// split gives those of an image's references that are ours, and whether there are
// others. What is known of one by its id alone has none.
func (k kept) split(refs []string) (ours []string, foreign bool) {
	repos := map[string]bool{}
	for _, n := range k.Names {
		if ref, err := reference.ParseNormalizedNamed(n); err == nil {
			repos[ref.Name()] = true
		}
	}
	for _, r := range refs {
		ref, err := reference.ParseNormalizedNamed(r)
		if err != nil || len(k.Names) == 0 {
			continue
		}
		_, digested := ref.(reference.Digested)
		switch {
		case slices.Contains(k.Names, ref.String()):
			ours = append(ours, r)
		case digested && repos[ref.Name()]: // goes with the names of its repository
		default:
			foreign = true
		}
	}
	return ours, foreign
}

// stored is an image that an engine has.
type stored struct {
	size int64
	refs []string // its names
}

func (e *engine) images(ctx context.Context) (map[string]stored, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := e.api.ImageList(ctx, client.ImageListOptions{})
	if err != nil {
		return nil, wrong("images", err)
	}
	all := map[string]stored{}
	for _, i := range r.Items {
		all[i.ID] = stored{size: i.Size, refs: slices.Concat(i.RepoTags, i.RepoDigests)}
	}
	return all, nil
}

// imagesInUse are those that containers are of, anybody's and in every state.
func (e *engine) imagesInUse(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, wrong("list", err)
	}
	busy := map[string]bool{}
	for _, c := range r.Items {
		busy[c.ImageID] = true
	}
	return busy, nil
}

// removeImage takes names from an image, and removes it by its id as well if whole.
// It reports false for one that a container uses.
func (e *engine) removeImage(ctx context.Context, id string, names []string, whole bool) (bool, error) {
	ctx, cancel := lasting(ctx, workTimeout)
	defer cancel()
	if whole {
		names = append(slices.Clone(names), id)
	}
	for _, name := range names {
		_, err := e.api.ImageRemove(ctx, name, client.ImageRemoveOptions{PruneChildren: true})
		switch {
		case err == nil, cerrdefs.IsNotFound(err):
		case cerrdefs.IsConflict(err):
			return false, nil
		default:
			return false, wrong("remove image", err)
		}
	}
	return true, nil
}
