package driverrpc

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverpb"
)

// fill sets every field of a struct to something that is not zero, so that a
// field which the conversion forgets shows.
func fill(t *testing.T, v reflect.Value, n *int) {
	t.Helper()
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), n)
	case reflect.String:
		v.SetString("s" + string(rune('a'+*n%26)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		v.SetUint(uint64(*n))
	case reflect.Float64:
		v.SetFloat(float64(*n))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(t, v.Index(0), n)
		fill(t, v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("cpu"), reflect.ValueOf("/sys"))
	default:
		t.Fatalf("a field of kind %s", v.Kind())
	}
}

// roundTrip sends a filled T over the wire and back.
func roundTrip[T any, P proto.Message](t *testing.T, to func(T) P, empty P, from func(P) T) {
	t.Helper()
	var in T
	n := 0
	fill(t, reflect.ValueOf(&in).Elem(), &n)
	data, err := proto.Marshal(to(in))
	if err != nil {
		t.Fatalf("%T: %v", in, err)
	}
	if err := proto.Unmarshal(data, empty); err != nil {
		t.Fatalf("%T: %v", in, err)
	}
	if diff := cmp.Diff(in, from(empty)); diff != "" {
		t.Errorf("%T does not come back whole:\n%s", in, diff)
	}
	var zero T
	if diff := cmp.Diff(zero, from(to(zero))); diff != "" {
		t.Errorf("an empty %T does not come back empty:\n%s", in, diff)
	}
}

func TestNothingIsLostOnTheWire(t *testing.T) {
	t.Parallel()
	roundTrip(t, specToPB, &driverpb.Spec{}, specFromPB)
	roundTrip(t, execSpecToPB, &driverpb.ExecSpec{}, execSpecFromPB)
	roundTrip(t, handleToPB, &driverpb.Handle{}, handleFromPB)
	roundTrip(t, statsToPB, &driverpb.StatsResponse{}, statsFromPB)
	roundTrip(t, stateToPB, &driverpb.RecoverResponse{}, stateFromPB)
	roundTrip(t, exitToPB, &driverpb.Exit{}, func(p *driverpb.Exit) *driver.Exit {
		if proto.Size(p) == 0 {
			return nil
		}
		return exitFromPB(p)
	})
	if d := durationFromPB(nil); d != 0 {
		t.Errorf("no duration is %v", d)
	}
	if d := execSpecFromPB(execSpecToPB(driver.ExecSpec{Timeout: time.Hour + 1})).Timeout; d != time.Hour+1 {
		t.Errorf("an hour and a nanosecond is %v", d)
	}
}
