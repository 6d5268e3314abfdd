// Package gateway is Fluxgate's edge: it listens, ends TLS, finds the app that
// a request is for, lets the request in, forwards it to an instance and streams
// the answer back.
//
// A request costs one atomic load of the Table. It takes no lock that all
// requests share, asks neither Redis nor Podman, and allocates next to
// nothing; only one that finds no instance ready, or all of them full, takes
// its app's lock and waits.
package gateway
