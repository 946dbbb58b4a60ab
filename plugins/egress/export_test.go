package egress

// PIDOf a sandbox's gateway.
var PIDOf = pidOf
