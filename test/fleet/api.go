package fleet

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/client"
)

// API is one nofx-api.
type API struct {
	*Process
	DB     *Link // to Postgres
	Client *Link // from clients
	port   int
	bin    string
	dir    string
	env    []string
	probe  *client.Client // past the link
}

func (f *Fleet) newAPI(i int) (*API, error) {
	a := &API{bin: filepath.Join(f.cfg.Bin, "nofx-api"), dir: f.Dir}
	name := "api-" + strconv.Itoa(i)
	var err error
	if a.port, err = freePort(); err != nil {
		return nil, err
	}
	if a.DB, err = newLink(name+" to Postgres", f.Postgres.addr()); err != nil {
		return nil, err
	}
	if a.Client, err = newLink("clients to "+name, a.addr()); err != nil {
		return nil, err
	}
	a.env = append([]string{
		"PATH=/usr/bin:/bin", "TZ=UTC", "HOME=" + f.Dir,
		"NOFX_DATABASE_URL=" + f.Postgres.url("nofx_api", a.DB.Addr()),
		"NOFX_SYSTEM_DATABASE_URL=" + f.Postgres.url("nofx_system", a.DB.Addr()),
		"NOFX_BLOB_DIR=" + filepath.Join(f.Dir, "blobs"),
		"NOFX_LISTEN=" + a.addr(), "NOFX_TLS_CERT_FILE=" + f.cert.cert, "NOFX_TLS_KEY_FILE=" + f.cert.key,
		"NOFX_LEASE=" + f.cfg.Lease.String(), "NOFX_HEARTBEAT=" + f.cfg.Heartbeat.String(), "NOFX_DRAIN_TIMEOUT=5s",
		failpoint.Env + "=" + f.points(name),
	}, f.cfg.Env...)
	if a.probe, err = client.New(client.Options{BaseURL: "https://" + a.addr(), CAFile: f.cert.cert}); err != nil {
		return nil, err
	}
	a.Process = newProcess(name, filepath.Join(f.Dir, name+".log"), f.cfg.Note, func() *exec.Cmd { return a.command("serve") })
	a.points = f.points(name)
	a.ready = func(ctx context.Context) error {
		health, err := a.probe.Health(ctx)
		if err == nil && !health.Ready {
			err = fmt.Errorf("not ready: %v", health.Checks)
		}
		return err
	}
	return a, nil
}

func (a *API) addr() string { return "127.0.0.1:" + strconv.Itoa(a.port) }

func (a *API) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), a.bin, args...)
	cmd.Dir, cmd.Env = a.dir, a.env
	return cmd
}

// remove ends it.
func (a *API) remove() error {
	err := a.stop(syscall.SIGTERM, stopTime)
	a.probe.Close()
	a.Client.close()
	a.DB.close()
	return err
}

// Ports that the kernel gives to nobody by itself, so that a server finds its
// own free when it is started again.
const (
	firstPort = 20000
	ports     = 12000
)

func freePort() (int, error) {
	for range 100 {
		port := firstPort + random(ports)
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port from %d on", firstPort)
}
