package sanity

import (
	"os/exec"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/nofx-run/nofx/sdk/driver/driverpb"
)

// The Python example's stubs are of the protocol as it is.
func TestPythonStubsAreUpToDate(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-B", "-c", "import sys, driver_pb2; sys.stdout.buffer.write(driver_pb2.DESCRIPTOR.serialized_pb)")
	cmd.Dir = "../../examples/driver-python"
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got descriptorpb.FileDescriptorProto
	if err := proto.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	want := protodesc.ToFileDescriptorProto(driverpb.File_sdk_driver_driverpb_driver_proto)
	got.Name, want.Name = nil, nil
	withoutJSONNames(got.GetMessageType())
	withoutJSONNames(want.GetMessageType())
	if !proto.Equal(&got, want) {
		t.Error("driver_pb2.py is not of sdk/driver/driverpb/driver.proto; its README says how to make it")
	}
}

// withoutJSONNames drops what one generator writes and the other leaves out.
func withoutJSONNames(messages []*descriptorpb.DescriptorProto) {
	for _, m := range messages {
		for _, f := range m.GetField() {
			f.JsonName = nil
		}
		withoutJSONNames(m.GetNestedType())
	}
}
