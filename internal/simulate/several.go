//go:build synctests

package simulate

// maxBrokers: with the build tag "synctests" franz-go's locks let a bubble's clock go on
// while a goroutine waits for one. Its producer holds one while it asks a broker for its
// id, and those of the other brokers wait for it.
const maxBrokers = 3
