//go:build !linux

package gateway

import "syscall"

// The gateway runs on Linux; elsewhere, where only the command line is used,
// these are never asked.

func hasHungUp(syscall.RawConn) bool { return false }

func hasInput(syscall.RawConn) bool { return false }
