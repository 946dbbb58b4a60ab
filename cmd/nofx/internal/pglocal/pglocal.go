// Package pglocal runs a private Postgres from the host's own binaries.
//
// Everything is below one folder: data/ (the cluster), conf/ (who may log
// in), run/ (the unix socket). There is no TCP port. The server runs as the
// unprivileged user "postgres", else "nobody", because Postgres refuses root;
// so that the folder may lie anywhere, below a home folder with mode 0700
// too, the server is started through Enter in a mount namespace of its own in
// which the folder appears at /mnt.
//
// Log-in is by peer: the kernel tells the server the client's uid, and only
// root may log in, as any database role. So there is no password anywhere,
// and another process of the server's own user gets nothing.
package pglocal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"
)

// Inside is where the server sees its folder.
const Inside = "/mnt"

// MaxSocketPath is what the kernel takes as a unix socket's path.
const MaxSocketPath = 107

const socketName = ".s.PGSQL.5432"

// Cluster is a Postgres cluster in a folder.
type Cluster struct {
	dir  string
	bin  string // folder of initdb and postgres
	uid  int
	gid  int
	self string // the executable that serves the hidden Enter command
}

// Open finds the host's Postgres (version 15 or newer) and describes the
// cluster in dir, an absolute path. self is the nofx executable.
func Open(dir, self string) (*Cluster, error) {
	c := &Cluster{dir: dir, self: self}
	var err error
	if c.bin, err = findBinaries("/usr/lib/postgresql", c.version()); err != nil {
		return nil, err
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil && uid != 0 {
			c.uid, c.gid = uid, gid
			return c, nil
		}
	}
	return nil, errors.New("no unprivileged user to run Postgres as: neither postgres nor nobody exists")
}

// version is the major version that made the cluster, which no other can
// serve; 0 = there is no cluster yet.
func (c *Cluster) version() int {
	if _, err := os.Stat(filepath.Join(c.dir, "initialised")); err != nil {
		return 0
	}
	text, err := os.ReadFile(filepath.Join(c.data(), "PG_VERSION"))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text))) // not a number: the server will say so
	return n
}

// findBinaries returns the bin folder of the newest installed Postgres, or of
// the one that a cluster needs; 0 = none does.
func findBinaries(root string, need int) (string, error) {
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	best, bin := 0, ""
	for _, e := range entries {
		version, err := strconv.Atoi(e.Name())
		if err != nil || version < 15 || version <= best || need != 0 && version != need {
			continue
		}
		dir := filepath.Join(root, e.Name(), "bin")
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			best, bin = version, dir
		}
	}
	if bin == "" && need != 0 {
		return "", fmt.Errorf("the data folder's database is of PostgreSQL %d, which is not below %s: apt-get install postgresql-%d, or use another data folder", need, root, need)
	}
	if bin == "" {
		return "", fmt.Errorf("no PostgreSQL 15 or newer below %s: run make setup, or apt-get install postgresql", root)
	}
	return bin, nil
}

// Init makes the cluster if there is none yet and writes who may log in. It
// reports whether the cluster is new.
func (c *Cluster) Init(ctx context.Context) (bool, error) {
	for _, d := range []string{c.dir, c.conf(), c.socketDir(), c.data()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return false, err
		}
		if err := os.Chmod(d, 0o700); err != nil {
			return false, err
		}
		if err := os.Lchown(d, c.uid, c.gid); err != nil {
			return false, err
		}
	}
	if err := c.writeAccess(); err != nil {
		return false, err
	}
	if _, err := os.Stat(filepath.Join(c.dir, "initialised")); err == nil {
		return false, nil
	}
	// A crash in the middle of initdb leaves a folder that it would refuse.
	if err := c.emptyData(); err != nil {
		return false, err
	}
	cmd := c.command(ctx, filepath.Join(c.bin, "initdb"),
		"--pgdata="+Inside+"/data", "--username=postgres", "--auth=peer",
		"--encoding=UTF8", "--no-locale", "--no-instructions")
	if out, err := cmd.CombinedOutput(); err != nil {
		return false, fmt.Errorf("initdb: %w: %s", err, lastLine(out))
	}
	return true, renameio.WriteFile(filepath.Join(c.dir, "initialised"), nil, 0o600)
}

func (c *Cluster) writeAccess() error {
	for name, body := range map[string]string{
		"pg_hba.conf":   "local all all peer map=nofx\n",
		"pg_ident.conf": "nofx root postgres\nnofx root nofx_api\nnofx root nofx_system\n",
	} {
		path := filepath.Join(c.conf(), name)
		if err := renameio.WriteFile(path, []byte(body), 0o600); err != nil {
			return err
		}
		if err := os.Lchown(path, c.uid, c.gid); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) emptyData() error {
	entries, err := os.ReadDir(c.data())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(c.data(), e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Serve is the command of the server itself. It logs to stderr.
func (c *Cluster) Serve() *exec.Cmd {
	settings := []string{
		"listen_addresses=",
		"unix_socket_directories=" + Inside + "/run",
		"unix_socket_permissions=0700",
		"hba_file=" + Inside + "/conf/pg_hba.conf",
		"ident_file=" + Inside + "/conf/pg_ident.conf",
		"fsync=on",
		"synchronous_commit=on",
		"dynamic_shared_memory_type=mmap", // below the folder, nothing in /dev/shm
		"max_connections=100",
		"timezone=UTC",
		"log_timezone=UTC",
		"lc_messages=C",
		"log_line_prefix=%m [%p] ",
		"logging_collector=off",
		"cluster_name=nofx",
	}
	args := []string{"-D", Inside + "/data"}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	return c.command(context.Background(), filepath.Join(c.bin, "postgres"), args...)
}

// command runs a Postgres program as the cluster's user with the folder at
// Inside. The new mount namespace is made by the runtime between fork and
// exec; Enter does the rest.
func (c *Cluster) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	argv := slices.Concat([]string{EnterCommand, c.dir, strconv.Itoa(c.uid), strconv.Itoa(c.gid), program}, args)
	cmd := exec.CommandContext(ctx, c.self, argv...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + c.bin + ":/usr/bin:/bin", "LC_ALL=C", "TZ=UTC", "HOME=" + Inside}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return cmd
}

// URL is how root connects as role to the database. socketDir is the folder
// as the client sees it: SocketDir, or a shorter way to it.
func URL(socketDir, role, database string) string {
	q := url.Values{"host": {socketDir}, "sslmode": {"disable"}}
	return (&url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + database, RawQuery: strings.ReplaceAll(q.Encode(), "+", "%20")}).String()
}

// Ready reports whether the server accepts connections on its socket in
// socketDir.
func (c *Cluster) Ready(ctx context.Context, socketDir string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "pg_isready"), "--host="+socketDir, "--timeout=5")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, lastLine(out))
	}
	return nil
}

// SocketDir is the folder of the server's socket, seen from outside.
func (c *Cluster) SocketDir() string { return c.socketDir() }

// SocketPath is the socket below such a folder.
func SocketPath(socketDir string) string { return filepath.Join(socketDir, socketName) }

func (c *Cluster) data() string      { return filepath.Join(c.dir, "data") }
func (c *Cluster) conf() string      { return filepath.Join(c.dir, "conf") }
func (c *Cluster) socketDir() string { return filepath.Join(c.dir, "run") }

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}
