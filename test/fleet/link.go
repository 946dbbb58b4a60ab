package fleet

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

// Way is a direction on a link.
type Way string

const (
	There Way = "upstream"   // requests
	Back  Way = "downstream" // answers
)

// healWait is how long a link may take to become healthy with its connections
// alive, before they are cut.
const healWait = 2 * time.Second

// Link is a TCP connection between two parts of the fleet that can be made bad.
type Link struct {
	Name  string
	proxy *toxiproxy.Proxy
	mu    sync.Mutex // one change at a time
}

// newLink listens on a loopback port of its own for what goes to upstream, a
// HOST:PORT.
func newLink(name, upstream string) (*Link, error) {
	zerolog.SetGlobalLevel(zerolog.Disabled) // the library has a logger besides the one that it is given
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l := &Link{Name: name, proxy: toxiproxy.NewProxy(server, name, "127.0.0.1:0", upstream)}
	if err := l.proxy.Start(); err != nil {
		return nil, fmt.Errorf("link %s: %w", name, err)
	}
	return l, nil
}

// Addr is where it listens.
func (l *Link) Addr() string { return l.proxy.Listen }

// Delay holds each piece up, each way.
func (l *Link) Delay(d, jitter time.Duration) error {
	for _, way := range []Way{There, Back} {
		if err := l.add("latency", way, fmt.Sprintf(`{"latency":%d,"jitter":%d}`, d.Milliseconds(), jitter.Milliseconds())); err != nil {
			return err
		}
	}
	return nil
}

// Starve lets through so many KB a second, each way.
func (l *Link) Starve(kb int) error {
	for _, way := range []Way{There, Back} {
		if err := l.add("bandwidth", way, fmt.Sprintf(`{"rate":%d}`, kb)); err != nil {
			return err
		}
	}
	return nil
}

// Drop lets nothing through on these ways, and tells nobody: connections are
// made and stay, until it heals.
func (l *Link) Drop(ways ...Way) error {
	for _, way := range ways {
		if err := l.add("timeout", way, `{"timeout":0}`); err != nil {
			return err
		}
	}
	return nil
}

func (l *Link) add(kind string, way Way, attributes string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	body := fmt.Sprintf(`{"name":"%[1]s-%[2]s","type":"%[1]s","stream":"%[2]s","attributes":%[3]s}`, kind, way, attributes)
	if _, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(body)); err != nil {
		return fmt.Errorf("link %s: %s: %w", l.Name, kind, err)
	}
	return nil
}

// Cut resets all connections and refuses new ones, until it heals.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proxy.Stop()
}

// Turn has new connections go to another upstream; those that are there end.
func (l *Link) Turn(upstream string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proxy.Stop()
	l.proxy.Upstream = upstream
	return l.proxy.Start()
}

// Heal makes the link as good as new.
func (l *Link) Heal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	healed := make(chan struct{})
	go func() {
		l.proxy.Toxics.ResetToxics(context.Background())
		close(healed)
	}()
	late := time.NewTimer(healWait)
	defer late.Stop()
	select {
	case <-healed:
	case <-late.C:
		// A peer that does not read holds its connection's data up.
		l.proxy.Stop()
		<-healed
	}
	if l.proxy.Enabled {
		return nil
	}
	return l.proxy.Start()
}

// Abandoned are goroutines that the proxies' library does not end when a
// connection goes while one of its pieces is held up, for goleak to leave out.
func Abandoned() []goleak.Option {
	var all []goleak.Option
	for _, f := range []string{
		"/toxics.(*BandwidthToxic).Pipe", "/toxics.(*LatencyToxic).Pipe", "/toxics.(*NoopToxic).Pipe", "/toxics.(*TimeoutToxic).Pipe",
		"/toxics.(*ToxicStub).Run", ".(*ToxicLink).read", ".(*ToxicLink).write", ".(*ToxicLink).RemoveToxic.func1",
	} {
		all = append(all, goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2"+f))
	}
	return all
}

func (l *Link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proxy.Stop()
}
