package driverrpc_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"github.com/nofx-run/nofx/sdk/driver/driverpb"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/step"
)

// describes is a plugin that says it has these versions.
type describes []int32

func (d describes) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	if d == nil {
		return step.Errorf(step.KindInternal, "I do not say")
	}
	reply.(*driverpb.DescribeResponse).ProtocolVersions = d
	return nil
}

func (d describes) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, step.Errorf(step.KindInternal, "there are no streams")
}

func TestRefusal(t *testing.T) {
	t.Parallel()
	many := describes{}
	for v := range int32(1000) {
		many = append(many, v+3)
	}
	for name, c := range map[string]struct {
		answer int
		says   describes
		ours   []int
		want   string
	}{
		"all of both":        {3, describes{5, 4, 3, 4}, nil, "the plugin speaks 3, 4 and 5, this daemon 1 and 2"},
		"one and one":        {2, describes{2}, []int{1}, "the plugin speaks 2, this daemon 1"},
		"older":              {0, describes{0}, nil, "the plugin speaks 0, this daemon 1 and 2"},
		"it does not say":    {3, nil, nil, "the plugin speaks 3, this daemon 1 and 2"},
		"not its answer":     {3, describes{4}, nil, "the plugin speaks 3, this daemon 1 and 2"},
		"one that we have":   {3, describes{2, 3}, nil, "the plugin speaks 3, this daemon 1 and 2"},
		"less than nothing":  {3, describes{-1, 3}, nil, "the plugin speaks 3, this daemon 1 and 2"},
		"too many":           {3, many, nil, "the plugin speaks 3, this daemon 1 and 2"},
		"one that was asked": {2, describes{1, 2}, nil, ""},
		"the only one":       {1, describes{1, 2}, []int{1}, ""},
	} {
		err := driverrpc.Refusal(t.Context(), c.answer, driverrpc.NewClient(c.says), "this daemon", c.ours...)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !step.Is(err, step.KindUnsupported) || err.Error() != "protocol version: "+c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if err := driverrpc.Refusal(t.Context(), 3, nil, "this daemon"); err == nil || err.Error() != "protocol version: the plugin speaks 3, this daemon 1 and 2" {
		t.Errorf("one that cannot be asked: %v", err)
	}
	if err := driverrpc.Refusal(t.Context(), 0, nil, "this daemon"); err != nil {
		t.Errorf("one that did not answer: %v", err)
	}
}

func TestOffer(t *testing.T) {
	t.Parallel()
	env := []string{"A=1", "PLUGIN_PROTOCOL_VERSIONS=0,7,3", "B=2"}
	if got, want := driverrpc.Offer(env), []string{"A=1", "B=2", "PLUGIN_PROTOCOL_VERSIONS=1,2"}; !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	if got := driverrpc.Offer(env, 1); got[2] != "PLUGIN_PROTOCOL_VERSIONS=1" {
		t.Errorf("%q", got)
	}
}
