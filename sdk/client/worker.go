package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/nofx-run/nofx/sdk/wire"
)

func workerCall(path string, in any) call {
	return call{
		method: http.MethodPost, path: "/api/worker/" + path, in: in,
		header: map[string]string{wire.WorkerProtocolHeader: strconv.Itoa(wire.WorkerProtocol)},
	}
}

// Register tells the API that this worker is here, with its drivers.
func (c *Client) Register(ctx context.Context, in wire.RegisterWorker) (wire.WorkerRegistered, error) {
	var out wire.WorkerRegistered
	return out, c.json(ctx, workerCall("register", in), &out)
}

// Claim asks for leases and waits up to in.WaitMS for the first.
func (c *Client) Claim(ctx context.Context, in wire.ClaimRequest) (wire.ClaimResponse, error) {
	r := workerCall("claims", in)
	r.timeout = c.timeout + time.Duration(in.WaitMS)*time.Millisecond
	var out wire.ClaimResponse
	return out, c.json(ctx, r, &out)
}

// Heartbeat renews what the worker holds, on connections that nothing else
// uses, so that bulk traffic cannot delay it.
func (c *Client) Heartbeat(ctx context.Context, in wire.Heartbeat) (wire.HeartbeatAnswer, error) {
	r := workerCall("heartbeat", in)
	r.via = c.beat
	r.timeout = c.timeout + time.Duration(in.WaitMS)*time.Millisecond
	var out wire.HeartbeatAnswer
	return out, c.json(ctx, r, &out)
}

// Journal ships records.
func (c *Client) Journal(ctx context.Context, in wire.JournalRequest) (wire.JournalAnswer, error) {
	var out wire.JournalAnswer
	return out, c.json(ctx, workerCall("journal", in), &out)
}

// Release gives back leases that were never started.
func (c *Client) Release(ctx context.Context, in wire.ReleaseRequest) (wire.ReleaseAnswer, error) {
	var out wire.ReleaseAnswer
	return out, c.json(ctx, workerCall("release", in), &out)
}

// PutArtifact uploads the bytes of one artifact of an attempt, under its
// lease. The API checks the hash; a repeat is harmless.
func (c *Client) PutArtifact(ctx context.Context, workerID, incarnation string, f wire.Fence, sha256 string, size int64, body io.Reader) error {
	r := heldCall("artifacts/"+url.PathEscape(f.AttemptID)+"/"+sha256, workerID, incarnation, f)
	r.method, r.body, r.length = http.MethodPut, body, size
	r.header["Content-Type"] = "application/octet-stream"
	r.timeout = 10 * time.Minute
	return c.json(ctx, r, nil)
}

// Layer opens a layer of the workspace of an attempt's run, under its lease. The
// caller closes it, compares its size and sha256 with the lease's, and bounds the
// time with ctx.
func (c *Client) Layer(ctx context.Context, workerID, incarnation string, f wire.Fence, seq int) (io.ReadCloser, error) {
	r := heldCall("layers/"+url.PathEscape(f.AttemptID)+"/"+strconv.Itoa(seq), workerID, incarnation, f)
	r.method = http.MethodGet
	return c.stream(ctx, r)
}

// heldCall is about a lease that the worker holds.
func heldCall(path, workerID, incarnation string, f wire.Fence) call {
	r := workerCall(path, nil)
	r.header["Nofx-Worker-Id"] = workerID
	r.header["Nofx-Incarnation"] = incarnation
	r.header["Nofx-Generation"] = strconv.Itoa(f.Generation)
	r.header["Nofx-Attempt"] = strconv.Itoa(f.Attempt)
	r.header["Nofx-Epoch"] = strconv.FormatInt(f.Epoch, 10)
	return r
}
