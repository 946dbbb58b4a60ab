package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/nofx-run/nofx/api"
	"github.com/nofx-run/nofx/configs"
	"github.com/nofx-run/nofx/internal/testpg"
	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

var server *testpg.Server

func TestMain(m *testing.M) {
	testpg.Main(m, migrate, &server)
}

func migrate(ctx context.Context, url string) error {
	_, err := api.Migrate(ctx, url)
	return err
}

// rig is a whole API over real HTTPS and a database of its own.
type rig struct {
	t     testing.TB
	db    testpg.Database
	roots *x509.CertPool
	cfg   api.Config
	url   string
	log   *buffer
	stop  func() error // stops the replica; start makes another
	user  *client.Client
	keys  map[string]string
}

// newRig starts it; change may adjust the configuration.
func newRig(t testing.TB, change ...func(*api.Config)) *rig {
	t.Helper()
	return newRigOn(t, server, change...)
}

// newRigOn is newRig on a server of the test's own.
func newRigOn(t testing.TB, on *testpg.Server, change ...func(*api.Config)) *rig {
	t.Helper()
	r := &rig{t: t, db: on.Database(t), log: &buffer{}, keys: map[string]string{}}
	// The database is a copy of an older one, which would look like an outage.
	r.sql("UPDATE nofx.lease_clock SET ticked_at = now(), hold_until = now()")
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	r.roots = x509.NewCertPool()
	raw, err := os.ReadFile(cert)
	if err != nil || !r.roots.AppendCertsFromPEM(raw) {
		t.Fatal("no certificate", err)
	}
	r.cfg = api.Config{DatabaseURL: r.db.API, SystemDatabaseURL: r.db.System, Listen: "127.0.0.1:0", TLSCertFile: cert, TLSKeyFile: key,
		BlobDir: filepath.Join(dir, "blobs"), Lease: 60 * time.Second, Heartbeat: 100 * time.Millisecond, Region: "test", DBConns: 5,
		DrainTimeout: 10 * time.Second, WorkspaceWait: time.Minute, WorkspaceKeep: time.Minute}
	r.cfg.KeysetFile = filepath.Join(dir, "keyset.json")
	if _, err := api.NewKeyset(r.cfg.KeysetFile); err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(&r.cfg)
	}
	r.start()
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("the API ended with %v", err)
		}
		if t.Failed() {
			t.Log(r.log.String())
		}
	})
	r.user = r.client("acme", "user")
	return r
}

// withoutBreakers is for tests in which steps fail again and again.
func withoutBreakers(t testing.TB) func(*api.Config) {
	t.Helper()
	manifests, err := configs.Handlers()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	names, err := fs.Glob(manifests, "*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatal("no manifests", err)
	}
	for _, name := range names {
		raw, err := fs.ReadFile(manifests, name)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := yaml.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		m["breaker"] = map[string]bool{"off": true}
		if raw, err = yaml.Marshal(m); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return func(c *api.Config) { c.HandlersDir = dir }
}

func (r *rig) start() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a, err := api.New(ctx, r.cfg, slog.New(slog.NewJSONHandler(r.log, nil)))
	if err != nil {
		cancel()
		r.t.Fatal(err)
	}
	r.url = a.Addr()
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-done })
}

// key makes an API key.
func (r *rig) key(tenant, role string) string {
	r.t.Helper()
	text, err := api.CreateKey(r.t.Context(), r.db.Admin, api.NewKey{Tenant: tenant, Name: "test", Role: role})
	if err != nil {
		r.t.Fatal(err)
	}
	return text
}

func (r *rig) client(tenant, role string) *client.Client {
	r.t.Helper()
	key := r.key(tenant, role)
	r.keys[tenant+" "+role] = key
	c, err := client.New(client.Options{BaseURL: r.url, Key: key, RootCAs: r.roots})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c
}

// http is a plain client that knows the API's certificate.
func (r *rig) http() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.roots}, DisableKeepAlives: true}}
}

// call sends one plain request.
func (r *rig) call(method, path, key string, body []byte, header ...string) (*http.Response, []byte) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.http().Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, raw
}

// submit posts a run of these steps.
func (r *rig) submit(steps string) wire.RunCreated {
	r.t.Helper()
	resp, raw := r.call("POST", "/api/runs", r.keys["acme user"], []byte(`{"plan":{"goal":"test","steps":`+steps+`}}`))
	var out wire.RunCreated
	if resp.StatusCode != http.StatusCreated || json.Unmarshal(raw, &out) != nil {
		r.t.Fatalf("submit: %d %s", resp.StatusCode, raw)
	}
	return out
}

func (r *rig) run(id string) wire.RunDetail {
	r.t.Helper()
	d, err := r.user.Run(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// until polls the run until ok.
func (r *rig) until(id string, ok func(wire.RunDetail) bool) wire.RunDetail {
	r.t.Helper()
	end := time.Now().Add(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		d := r.run(id)
		if ok(d) {
			return d
		}
		if time.Now().After(end) {
			r.t.Fatalf("not in time: %+v", d)
		}
		<-tick.C
	}
}

func (r *rig) types(id string) []step.EventType {
	r.t.Helper()
	events, err := r.user.Timeline(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	out := make([]step.EventType, len(events))
	for i, e := range events {
		if out[i] = e.Type; e.Seq != int64(i+1) {
			r.t.Errorf("event %d has number %d", i+1, e.Seq)
		}
	}
	return out
}

// worker plays a worker host.
type worker struct {
	*client.Client
	r           *rig
	id          string
	incarnation string
	region      string // "" = that of the API
	drivers     []wire.DriverInfo
	claims      int
	old         bool // it knows nothing of layers
}

// worker registers a worker, with the driver local when none are given.
func (r *rig) worker(name string, drivers ...wire.DriverInfo) *worker {
	r.t.Helper()
	return r.workerOf("acme", name, drivers...)
}

// workerOf is a worker of another tenant.
func (r *rig) workerOf(tenant, name string, drivers ...wire.DriverInfo) *worker {
	r.t.Helper()
	if len(drivers) == 0 {
		drivers = []wire.DriverInfo{offering("local", able...)}
	}
	w := &worker{Client: r.client(tenant, "worker"), r: r, incarnation: name + "-1", drivers: drivers}
	w.register(name)
	return w
}

// silence is as if the worker had said nothing for longer than a lease.
func (w *worker) silence() {
	w.r.t.Helper()
	w.r.sql(`WITH lapsed AS (UPDATE nofx.attempt SET lease_until = now() - interval '1 second' WHERE worker_id = $1 AND status = 'running')
		UPDATE nofx.worker SET last_seen = now() - make_interval(secs => $2::float8) WHERE id = $1`, w.id, w.r.cfg.Lease.Seconds()+1)
}

func (w *worker) register(name string) {
	w.r.t.Helper()
	reg, err := w.Register(w.r.t.Context(), wire.RegisterWorker{Name: name, Incarnation: w.incarnation, Region: w.region, Version: "test", Slots: 8,
		Drivers: w.drivers})
	if err != nil {
		w.r.t.Fatal(err)
	}
	w.id = reg.WorkerID
}

func (w *worker) claim(most int, wait time.Duration) []wire.Lease {
	w.r.t.Helper()
	w.claims++
	return w.claimAs(w.incarnation+"-"+string(rune('a'+w.claims)), most, wait)
}

func (w *worker) claimAs(claimID string, most int, wait time.Duration) []wire.Lease {
	w.r.t.Helper()
	names := make([]string, len(w.drivers))
	for i, d := range w.drivers {
		names[i] = d.Name
	}
	out, err := w.Claim(w.r.t.Context(), wire.ClaimRequest{WorkerID: w.id, Incarnation: w.incarnation, ClaimID: claimID,
		Max: most, WaitMS: wait.Milliseconds(), Drivers: names, Layers: !w.old})
	if err != nil {
		w.r.t.Fatal(err)
	}
	return out.Leases
}

func (w *worker) one() wire.Lease {
	w.r.t.Helper()
	leases := w.claim(1, 10*time.Second)
	if len(leases) != 1 {
		w.r.t.Fatalf("claimed %d leases, want 1", len(leases))
	}
	return leases[0]
}

func (w *worker) ship(batches ...wire.JournalBatch) (wire.JournalAnswer, error) {
	return w.Journal(w.r.t.Context(), wire.JournalRequest{WorkerID: w.id, Incarnation: w.incarnation, Batches: batches})
}

// finish plays an attempt from its start to its verdict.
func (w *worker) finish(l wire.Lease, v wire.VerdictRecord, output ...string) {
	w.r.t.Helper()
	answer, err := w.ship(wire.JournalBatch{Fence: l.Fence, Records: records(v, output...)})
	if err != nil {
		w.r.t.Fatal(err)
	}
	if len(answer.Acks) != 1 || !answer.Acks[0].Ended || len(answer.Discard) != 0 {
		w.r.t.Fatalf("%+v", answer)
	}
}

// records is a journal: started, output, verdict.
func records(v wire.VerdictRecord, output ...string) []wire.Record {
	out := []wire.Record{{N: 1, Type: wire.RecordStarted, Started: &wire.StartedRecord{Driver: "local", DriverVersion: "1", SandboxID: "s"}}}
	offset := int64(0)
	for i, text := range output {
		stream := wire.Stdout
		if i%2 == 1 {
			stream = wire.Stderr
		}
		out = append(out, wire.Record{N: int64(len(out) + 1), Type: wire.RecordOutput, Output: &wire.OutputRecord{Stream: stream, Offset: offset, Data: []byte(text)}})
		offset += int64(len(text))
		if stream == wire.Stdout {
			v.Stdout = append(v.Stdout, text...)
		} else {
			v.Stderr = append(v.Stderr, text...)
		}
	}
	v.Stdout, v.Stderr = v.Stdout[:min(len(v.Stdout), wire.MaxVerdictStream)], v.Stderr[:min(len(v.Stderr), wire.MaxVerdictStream)]
	return append(out, wire.Record{N: int64(len(out) + 1), Type: wire.RecordVerdict, Verdict: &v})
}

func exit(code int) wire.VerdictRecord {
	return wire.VerdictRecord{Verdict: step.Verdict{Cause: step.CauseExit, ExitCode: &code, Attested: step.AttestedKernel}}
}

func cause(c step.Cause) wire.VerdictRecord {
	return wire.VerdictRecord{Verdict: step.Verdict{Cause: c, Attested: step.AttestedKernel}}
}

func certificate(t testing.TB, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// buffer is a bytes.Buffer for concurrent use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// restart starts a new replica at the address of the stopped one.
func (r *rig) restart() {
	r.t.Helper()
	r.cfg.Listen = r.url[len("https://"):]
	r.start()
}

// again is a client with a key that was made before.
func (r *rig) again(name string) *client.Client {
	r.t.Helper()
	c, err := client.New(client.Options{BaseURL: r.url, Key: r.keys[name], RootCAs: r.roots})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c
}

// in is the rig for a subtest.
func (r *rig) in(t testing.TB) *rig {
	sub := *r
	sub.t = t
	return &sub
}
