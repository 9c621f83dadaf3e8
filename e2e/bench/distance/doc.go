// Package distance puts a network with a round trip of some milliseconds between
// this process and programs that it starts, on one machine: a network namespace, a
// TUN device on each side of its border, and between them this process, which hands
// the packets over when their time has come. For Linux, and for root.
//
// The namespace has no name and the devices belong to this process: the kernel
// removes all of it when the process ends, however it does.
package distance

import "net"

// Addresses of the two ends, of the network that is set aside for benchmarks (RFC 2544).
const (
	Network = "198.18.77.0/30"
	Near    = "198.18.77.1" // this process's side
	Far     = "198.18.77.2" // inside
)

var mask = net.CIDRMask(30, 32)
