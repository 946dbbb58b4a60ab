package secret

import (
	"bytes"
	"encoding/json"
	"time"
)

// Step is what is sealed of a step.
type Step struct {
	Inputs  json.RawMessage `json:"inputs"`
	Command json.RawMessage `json:"command"` // what the handler made of them
}

// Receiver is what is sealed of a receiver of alerts.
type Receiver struct {
	URL    string `json:"url"`
	Secret string `json:"secret"` // a webhook's, to sign with
	// Before is the secret that it had before, with which messages are signed, too,
	// until Until.
	Before string    `json:"before,omitempty"`
	Until  time.Time `json:"until,omitzero"`
}

// column is what all tables call the one that holds a ciphertext.
const column = "sealed"

// SealStep seals for the row of a step.
func (k *Keys) SealStep(tenant, id string, s Step) ([]byte, error) {
	return seal(k, Place{tenant, "step", id, column}, s)
}

// OpenStep opens what is sealed in the row of a step.
func (k *Keys) OpenStep(tenant, id string, sealed []byte) (Step, error) {
	return open[Step](k, Place{tenant, "step", id, column}, sealed)
}

// SealDead seals the inputs that an entry of the DLQ has kept.
func (k *Keys) SealDead(tenant, id string, inputs json.RawMessage) ([]byte, error) {
	return seal(k, Place{tenant, "step_dlq", id, column}, inputs)
}

// OpenDead opens the inputs that an entry of the DLQ has kept.
func (k *Keys) OpenDead(tenant, id string, sealed []byte) (json.RawMessage, error) {
	return open[json.RawMessage](k, Place{tenant, "step_dlq", id, column}, sealed)
}

// SealReceiver seals for the row of a receiver of alerts.
func (k *Keys) SealReceiver(tenant, name string, r Receiver) ([]byte, error) {
	return seal(k, Place{tenant, "alert_receiver", name, column}, r)
}

// OpenReceiver opens what is sealed in the row of a receiver of alerts.
func (k *Keys) OpenReceiver(tenant, name string, sealed []byte) (Receiver, error) {
	return open[Receiver](k, Place{tenant, "alert_receiver", name, column}, sealed)
}

func seal(k *Keys, at Place, v any) ([]byte, error) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // inputs stay as they came in, also within
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return k.Seal(at, text.Bytes())
}

func open[T any](k *Keys, at Place, sealed []byte) (v T, err error) {
	raw, err := k.Open(at, sealed)
	if err != nil {
		return v, err
	}
	if json.Unmarshal(raw, &v) != nil {
		return v, ErrChanged
	}
	return v, nil
}
