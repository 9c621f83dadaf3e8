// Package validate holds what can be tried of docker/ and docs/ without a container
// engine or a cluster: the image's root in a chroot against real servers, the files
// by the tools that read them. It is in a module of its own, so that the product's
// go.mod holds only what the product needs.
package validate
