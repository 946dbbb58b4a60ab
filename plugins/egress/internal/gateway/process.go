package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/bounded"
	"github.com/nofx-run/nofx/plugins/egress"
)

const maxConfig = 1 << 20 // bytes

// Main is the gateway's process: it makes the tunnel, gives up what it may do
// and serves until the sandbox's supervisor has ended.
func Main(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready := os.NewFile(egress.FDReady, "ready")
	if ready == nil {
		return errors.New("not started by a driver")
	}
	g, tun, err := prepare()
	if err != nil {
		_, _ = io.WriteString(ready, err.Error())
		return err
	}
	ended := make(chan error, 2)
	go func() { ended <- awaitEnd(egress.FDPeer) }()
	serving := make(chan struct{})
	go func() { ended <- g.Attach(ctx, tun, func() { close(serving) }) }()
	select {
	case <-serving:
	case err := <-ended:
		return err
	}
	g.count.Ready()
	// A driver that has died does not hear it, and finds the counters say so
	// when it is asked for the sandbox again.
	_, _ = io.WriteString(ready, egress.ReadyWord)
	_ = ready.Close()
	return <-ended
}

// prepare does all that takes root, and then there is none.
func prepare() (*Gateway, int, error) {
	for fd := egress.FDConfig; fd <= egress.FDReady; fd++ {
		unix.CloseOnExec(fd)
	}
	config := os.NewFile(egress.FDConfig, "config")
	data, err := bounded.File(config, maxConfig)
	if err != nil {
		return nil, -1, fmt.Errorf("configuration: %w", err)
	}
	if err := config.Close(); err != nil {
		return nil, -1, err
	}
	var c egress.Config
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, -1, fmt.Errorf("configuration: %w", err)
	}
	count, err := OpenCounters(egress.FDCounters)
	if err != nil {
		return nil, -1, fmt.Errorf("counters: %w", err)
	}
	g, err := New(c, count)
	if err != nil {
		return nil, -1, err
	}
	tun, err := OpenTunnel(egress.FDNetNS, c.Made)
	if err != nil {
		return nil, -1, err
	}
	if err := unix.Close(egress.FDNetNS); err != nil {
		return nil, -1, err
	}
	return g, tun, confine(c.Root, c.UID)
}

// awaitEnd waits until a process has ended.
func awaitEnd(pidfd int) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1) //nolint:gosec // a descriptor
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
