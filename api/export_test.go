package api

// Tick is what a request does where nothing runs between requests.
var Tick = (*API).tick
