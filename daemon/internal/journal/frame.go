package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A record is JSON. That of output, which is most of what a journal holds, has
// its data apart: withData, the JSON's length in 4 bytes, the JSON without the
// data, the data.
const withData = 1

// encode appends the record to frame, which is empty, with its header.
func encode(frame []byte, rec wire.Record) ([]byte, error) {
	var data []byte
	if rec.Output != nil {
		bare := *rec.Output
		data, bare.Data = bare.Data, nil
		rec.Output = &bare
	}
	text, err := json.Marshal(rec)
	if err != nil {
		return frame, err
	}
	frame = append(frame, make([]byte, header)...)
	if rec.Output != nil {
		frame = append(frame, withData)
		frame = binary.BigEndian.AppendUint32(frame, uint32(len(text))) //nolint:gosec // bounded below
	}
	frame = append(append(frame, text...), data...)
	body := frame[header:]
	if len(body) > maxRecord {
		return frame, step.Errorf(step.KindTooLarge, "a record of %d bytes, more than %d", len(body), maxRecord)
	}
	binary.BigEndian.PutUint32(frame[:4], uint32(len(body))) //nolint:gosec // bounded above
	binary.BigEndian.PutUint32(frame[4:], checksum(body))
	return frame, nil
}

// decode reads a record's body, which the record keeps parts of.
func decode(body []byte) (rec wire.Record, err error) {
	if body[0] != withData {
		return rec, json.Unmarshal(body, &rec)
	}
	if len(body) < 5 {
		return rec, errBroken
	}
	text, n := body[5:], binary.BigEndian.Uint32(body[1:])
	if uint64(n) > uint64(len(text)) {
		return rec, errBroken
	}
	if err := json.Unmarshal(text[:n], &rec); err != nil {
		return rec, err
	}
	if rec.Output == nil {
		return rec, errBroken
	}
	rec.Output.Data = text[n:]
	return rec, nil
}

// errBroken is for a record whose checksum is right and whose parts are not.
var errBroken = errors.New("a record's parts do not fit")
