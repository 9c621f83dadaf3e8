//go:build !linux

package config

func inMemory(string) bool { return false }
