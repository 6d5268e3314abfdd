// Package cli is the command line: every command over the control API's client,
// and `up`, which wires the whole product together.
package cli
