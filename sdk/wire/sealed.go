package wire

// Sealed stands in answers for a value that is kept encrypted and shown to
// nobody. In edited inputs it means: as it was.
const Sealed = "[sealed]"
